/* An echo service that nobody can reach, made reachable by a relay's event protocol.
 *
 *     cc -std=c11 -o event event.c && ./event HOST PORT
 *
 * The control connection says `event`, `new`, and is answered with our public port. Then it brings one line for each
 * user: a ticket. To take the user, dial the relay again and hand in the ticket; what follows on that connection is
 * the user's bytes. A user whose ticket nobody hands in is closed after 10 seconds. */
#define _POSIX_C_SOURCE 200809L
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINE = 512, USERS = 256 }; /* Bytes of a line, and processes, at most. */

static int dial(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *at;
    int relay = -1;

    if (getaddrinfo(host, port, &hints, &found) != 0)
        return -1;
    for (at = found; at != NULL && relay < 0; at = at->ai_next) {
        relay = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
        if (relay >= 0 && connect(relay, at->ai_addr, at->ai_addrlen) != 0) {
            close(relay);
            relay = -1;
        }
    }
    freeaddrinfo(found);
    /* Else nobody would notice that the way to the relay is gone: on the control connection only the relay speaks. */
    setsockopt(relay, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
#ifdef TCP_KEEPIDLE /* Without it two hours pass first. */
    setsockopt(relay, IPPROTO_TCP, TCP_KEEPIDLE, &(int){20}, sizeof(int));
#endif
    return relay;
}

/* Takes the next line, and no byte of what follows it: tickets may come many in one segment. */
static int read_line(int relay, char line[LINE])
{
    for (int i = 0; i < LINE && read(relay, line + i, 1) == 1; i++)
        if (line[i] == '\n')
            return line[i] = '\0', 1;
    return 0;
}

/* The service. Put yours here: a user's end-of-file arrives as such, and so does ours. */
static void echo(int user)
{
    char data[65536];
    ssize_t got, sent;

    while ((got = read(user, data, sizeof data)) > 0)
        for (char *at = data; got > 0; at += sent, got -= sent)
            if ((sent = write(user, at, (size_t)got)) < 0)
                return;
}

int main(int argc, char **argv)
{
    char line[LINE];
    int relay, users = 0;

    if (argc != 3)
        return fprintf(stderr, "usage: %s HOST PORT\n", argv[0]), 2;
    signal(SIGPIPE, SIG_IGN);
    /* When the tunnel is lost it is opened again; users who are here stay. */
    for (int opened = 0;; opened = 1, sleep(1)) {
        relay = dial(argv[1], argv[2]);
        if (relay < 0 || dprintf(relay, "event\nnew\n") < 0 || !read_line(relay, line)) {
            if (!opened)
                return fprintf(stderr, "the relay cannot be reached, or gives us no port\n"), 1;
            close(relay);
            continue;
        }
        printf("reachable %sat %s:%s\n", opened ? "again " : "", argv[1], line);
        fflush(stdout);
        while (read_line(relay, line)) {
            while (users > 0 && waitpid(-1, NULL, WNOHANG) > 0)
                users--;
            pid_t child = users < USERS ? fork() : -1;
            if (child == 0) {
                close(relay);
                int user = dial(argv[1], argv[2]);
                if (user >= 0 && dprintf(user, "event\n%s\n", line) > 0)
                    echo(user);
                _exit(0);
            }
            users += child > 0;
        }
        close(relay);
    }
}
