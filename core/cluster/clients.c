#include "cluster/clients.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "base/error.h"

void cm_clients_init(struct cm_clients *clients, uint64_t header_ms, uint64_t rest_ms) {
    *clients = (struct cm_clients){0};
    clients->limits_ms[CM_CLIENT_HEADING] = header_ms;
    clients->limits_ms[CM_CLIENT_RESTING] = CM_CLIENTS_CHECK_MS;
    clients->limits_ms[CM_CLIENT_IDLE] = rest_ms;
    for (int i = 0; i < CM_CLIENT_PHASES; i++)
        cm_list_init(&clients->phases[i]);
}

static void place(struct cm_clients *clients, struct cm_client *client, enum cm_client_phase phase,
                  uint64_t now_ms) {
    client->phase = phase;
    client->since_ms = now_ms;
    cm_list_append(&clients->phases[phase], &client->link);
}

int cm_client_new(struct cm_clients *clients, int fd, uint64_t now_ms, struct cm_client **client) {
    struct cm_client *made = calloc(1, sizeof *made);
    if (!made)
        return CM_E_NOMEMORY;
    made->fd = fd;
    place(clients, made, CM_CLIENT_HEADING, now_ms);
    clients->count++;
    *client = made;
    return 0;
}

void cm_client_free(struct cm_clients *clients, struct cm_client *client) {
    cm_list_remove(&client->link);
    clients->count--;
    free(client);
}

void cm_client_enter(struct cm_clients *clients, struct cm_client *client, enum cm_client_phase phase,
                     uint64_t now_ms) {
    if (client->phase == CM_CLIENT_ENDING)
        return;
    cm_list_remove(&client->link);
    place(clients, client, phase, now_ms);
}

/* Whoever polls the socket finds its end. */
static void end(struct cm_clients *clients, struct cm_client *client, uint64_t now_ms) {
    shutdown(client->fd, SHUT_RDWR);
    cm_client_enter(clients, client, CM_CLIENT_ENDING, now_ms);
}

uint64_t cm_clients_due_ms(const struct cm_clients *clients) {
    uint64_t due_ms = UINT64_MAX;
    for (int i = 0; i < CM_CLIENT_PHASES; i++) {
        if (!clients->limits_ms[i] || cm_list_empty(&clients->phases[i]))
            continue;
        const struct cm_client *first = CM_LIST_ITEM(clients->phases[i].next, struct cm_client, link);
        if (first->since_ms + clients->limits_ms[i] < due_ms)
            due_ms = first->since_ms + clients->limits_ms[i];
    }
    return due_ms;
}

/* What recv gives for the next byte. */
static ssize_t peek(const struct cm_client *client) {
    char byte;
    return recv(client->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

bool cm_client_has_unread(const struct cm_client *client) {
    return peek(client) > 0;
}

static void expire(struct cm_clients *clients, struct cm_client *client, uint64_t now_ms) {
    if (client->phase == CM_CLIENT_RESTING && peek(client) != 0)
        cm_client_enter(clients, client, CM_CLIENT_IDLE, now_ms);
    else
        end(clients, client, now_ms);
}

void cm_clients_expire(struct cm_clients *clients, uint64_t now_ms) {
    for (int i = 0; i < CM_CLIENT_PHASES; i++) {
        if (!clients->limits_ms[i])
            continue;
        CM_LIST_EACH(link, &clients->phases[i]) {
            struct cm_client *client = CM_LIST_ITEM(link, struct cm_client, link);
            if (now_ms < client->since_ms + clients->limits_ms[i])
                break;
            expire(clients, client, now_ms);
        }
    }
}

void cm_clients_dismiss(struct cm_clients *clients, uint64_t quiet_ms, uint64_t now_ms) {
    static const enum cm_client_phase idle[] = {CM_CLIENT_HEADING, CM_CLIENT_RESTING, CM_CLIENT_IDLE};
    for (size_t i = 0; i < sizeof idle / sizeof *idle; i++) {
        CM_LIST_EACH(link, &clients->phases[idle[i]]) {
            struct cm_client *client = CM_LIST_ITEM(link, struct cm_client, link);
            if (now_ms < client->since_ms + quiet_ms)
                break;
            if (!client->owner && !cm_client_has_unread(client))
                end(clients, client, now_ms);
        }
    }
}
