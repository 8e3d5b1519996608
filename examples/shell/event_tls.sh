#!/usr/bin/env bash
# event.sh, with an invite: over TLS and with an identity. openssl makes the proof, and socat speaks TLS.
#
#     event_tls.sh INVITE COMMAND…         for example: event_tls.sh "$(cat invite)" cat
#
# It ends with its tunnel; users who are here stay. Others on this machine may see the token in `ps`, and the program
# sees an end where a user was aborted. docs/PROTOCOL.md specifies the lines in section 7, the proof in 8, TLS in 9.
set -euo pipefail
fail() { echo "$*" >&2; exit 1; }

pattern='^relay://([a-z0-9][a-z0-9._-]{0,62}):([A-Za-z0-9_-]{43})@(\[[0-9a-fA-F:.]+\]|[^]:/?@[]+)(:([0-9]{1,5}))?\?pin=sha256-([0-9a-f]{64})$'
[[ $1 =~ $pattern ]] || fail 'that is no invite with a pin'
name=${BASH_REMATCH[1]} token=${BASH_REMATCH[2]} host=${BASH_REMATCH[3]} port=${BASH_REMATCH[5]:-7000} pin=${BASH_REMATCH[6]}
shift

# Bytes are hexadecimal digits here.
hex() { od -An -vtx1 | tr -d ' \n'; }
raw() { printf "$(sed 's/../\\x&/g' <<<"$1")"; }
decode() { tr -- -_ +/ <<<"$1=" | openssl base64 -d -A | hex; }
encode() { raw "$1" | openssl base64 -A | tr +/ -_ | tr -d =; }
mac() { raw "$2" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -binary | hex; }

prove() { # NONCE: shows that we know the token, for this nonce and this certificate, without telling it.
    local field message='' client_key verifier mask i
    for field in "$(printf 'relay/1 proof' | hex)" "$(printf %s "$name" | hex)" "$1" "$pin"; do
        message+=$(printf '%04x' $((${#field} / 2)))$field
    done
    client_key=$(mac "$(decode "$token")" "$(printf 'relay/1 client key' | hex)")
    verifier=$(raw "$client_key" | openssl dgst -sha256 -binary | hex)
    mask=$(mac "$verifier" "$message")
    for ((i = 0; i < 64; i += 8)); do printf '%08x' $((16#${client_key:i:8} ^ 16#${mask:i:8})); done
}

# The certificate that the pin names is the only one that we trust from here on.
asked=${pin::32}.${pin:32}.pin.invalid
certificate=$(mktemp)
trap 'rm -f "$certificate"' EXIT
openssl s_client -connect "$host:$port" -servername "$asked" -alpn relay/1 </dev/null 2>/dev/null |
    openssl x509 >"$certificate" 2>/dev/null || fail 'the relay cannot be reached'
[ "$(openssl x509 -in "$certificate" -outform der | openssl dgst -sha256 -binary | hex)" = "$pin" ] ||
    fail "the relay's certificate is not the one that the invite names: ask for a new one"
relay="openssl:$host:$port,cafile=$certificate,snihost=$asked,commonname=,openssl-min-proto-version=TLS1.3,keepalive,keepidle=20"

take() { # TICKET COMMAND…
    local ticket=$1
    shift
    # After one direction's end the other has 5 minutes, as at the relay. Pipes take 4096 bytes without blocking.
    coproc user { exec socat -t 300 -b 4096 -,shut-close "$relay"; }
    printf 'event\n%s\n' "$ticket" >&"${user[1]}"
    exec "$@" <&"${user[0]}" >&"${user[1]}"
}

answer() {
    IFS= read -rn 512 line <&"${link[0]}" || fail 'the relay has closed the connection'
    [[ $line != error\ * ]] || fail "the relay refuses: ${line@Q}"
}

coproc link { exec socat - "$relay"; }
printf 'relay/1\nauth %s\n' "$name" >&"${link[1]}"
answer # What the relay can do.
answer # The nonce.
printf '%s\nevent service=shell\nnew\n' "$(encode "$(prove "$(decode "$line")")")" >&"${link[1]}"
answer # The proof is right.
answer
echo "reachable at $host:$line"
while answer; do take "$line" "$@" & done
