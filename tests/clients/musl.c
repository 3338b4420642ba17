/* What a program linked with musl sees of names: each argument is looked up as getaddrinfo does,
 * A and AAAA at once on one socket; `-x ADDRESS` looks an address up. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static const char *kind(int error) {
    switch (error) {
    case EAI_NONAME: return "NONAME";
    case EAI_NODATA: return "NODATA";
    case EAI_AGAIN: return "AGAIN";
    case EAI_FAIL: return "FAIL";
    default: return "OTHER";
    }
}

static void forward(const char *name) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME}, *all, *one;
    int error = getaddrinfo(name, "443", &hints, &all);
    printf("%s", name);
    if (error) {
        printf(" %s\n", kind(error));
        return;
    }
    printf(" %s", all->ai_canonname);
    /* IPv4 first, whatever order the library prefers. */
    for (int family = 0; family < 2; family++)
        for (one = all; one; one = one->ai_next) {
            char text[INET6_ADDRSTRLEN];
            const void *address = one->ai_family == AF_INET
                ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
                : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
            if ((one->ai_family == AF_INET6) == family)
                printf(" %s", inet_ntop(one->ai_family, address, text, sizeof text));
        }
    printf("\n");
    freeaddrinfo(all);
}

static void reverse(const char *address) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    char name[256];
    inet_pton(AF_INET, address, &at.sin_addr);
    int error = getnameinfo((void *)&at, sizeof at, name, sizeof name, 0, 0, NI_NAMEREQD);
    printf("%s %s\n", address, error ? kind(error) : name);
}

int main(int argc, char **argv) {
    for (int at = 1; at < argc; at++)
        if (!strcmp(argv[at], "-x") && at + 1 < argc)
            reverse(argv[++at]);
        else
            forward(argv[at]);
    return 0;
}
