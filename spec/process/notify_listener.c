/* notify_listener PATH: prints what comes to a datagram socket of that path, or with @ in front of that name,
 * a datagram in each line, its own line ends as blanks. Says "listening" first. Ends with its standard input.
 */
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = argc == 2 ? strlen(argv[1]) : 0;
    if (len == 0 || len >= sizeof address.sun_path)
        return 2;
    memcpy(address.sun_path, argv[1], len);
    if (argv[1][0] == '@')
        address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 ||
        bind(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)))
        return 1;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    puts("listening");
    struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    while (poll(fds, 2, -1) >= 0 && !fds[1].revents) {
        char text[512];
        ssize_t got = recv(fd, text, sizeof text - 1, 0);
        if (got < 0)
            return 1;
        text[got] = 0;
        for (char *end = strchr(text, '\n'); end; end = strchr(end, '\n'))
            *end = ' ';
        puts(text);
    }
    return 0;
}
