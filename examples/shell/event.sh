#!/usr/bin/env bash
# A program made reachable by a relay's event protocol: each user is its standard input and output, as under inetd.
#
#     event.sh HOST PORT COMMAND…          for example: event.sh localhost 7000 cat
#
# The control connection says `event`, `new`, and is answered with our public port; then it brings a line for each
# user: a ticket. To take the user, dial again and hand in the ticket; what follows is the user's bytes.
host=$1 port=$2
shift 2

take() {
    local ticket=$1 user
    shift
    exec {user}<>"/dev/tcp/$host/$port" && printf 'event\n%s\n' "$ticket" >&"$user" || return
    exec "$@" <&"$user" >&"$user" {user}>&-
}

tunnel() {
    local control public ticket
    exec {control}<>"/dev/tcp/$host/$port" && printf 'event\nnew\n' >&"$control" || return
    # From a socket, bash's read takes not a byte more than the line.
    IFS= read -rn 512 public <&"$control" && echo "reachable ${again-}at $host:$public" || return
    while IFS= read -rn 512 ticket <&"$control"; do
        take "$ticket" "$@" {control}>&- &
    done
    exec {control}>&-
}

tunnel "$@" || exit
again='again '
while sleep 1; do tunnel "$@"; done # It was lost: users who are here stay.
