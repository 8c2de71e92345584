/* The answer of an exchange, on its way to libmicrohttpd. For core/cluster/exchange alone, whose struct it
 * works on. */
#ifndef CM_CLUSTER_ANSWER_H
#define CM_CLUSTER_ANSWER_H

#include "cluster/exchange.h"

/* libmicrohttpd leaves the connection alone until it is resumed. Only from what libmicrohttpd calls. */
void cm_answer_suspend(struct cm_exchange *exchange);
/* Lets it go on, if it is suspended. */
void cm_answer_resume(struct cm_exchange *exchange);

/* The bytes of its body that are not libmicrohttpd's yet. */
size_t cm_answer_unsent(const struct cm_exchange *exchange);

/* Whether its body is not sent: by the method or by the status. */
bool cm_answer_is_bodiless(const struct cm_exchange *exchange);

/* Hands the answer over, behind the whole request or instead of its body. One that is whole by now is sent as
 * such, with its length; of another one libmicrohttpd fetches piece by piece. MHD_NO closes the connection.
 */
enum MHD_Result cm_answer_queue(struct cm_exchange *exchange);

#endif
