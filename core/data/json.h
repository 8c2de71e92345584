/* Encoded values as JSON, for people and other programs. Keys exactly 1..n (n >= 1) are an array, all else is
 * an object, whose number keys become strings; an integer is written whole, a float so that it reads back as
 * the same one; what is not UTF-8 becomes U+FFFD, one for each byte. Pure functions of any process's. */
#ifndef CM_DATA_JSON_H
#define CM_DATA_JSON_H

#include <stdbool.h>

#include "base/buf.h"

/* Appends the JSON text of a value; parts of a document that are expired at now_ms are absent. NaN and the
 * infinities are CM_E_BADVALUE, or with `lenient` null (as keys "inf" and "-inf"). Two keys may become one
 * name, as 1 and "1" do.
 *
 * 0; or, with `out` holding what it held, CM_E_NOTFOUND when the whole is expired, CM_E_NOMEMORY, or
 * CM_E_BADVALUE when the bytes are no value (core/data/document). Takes time in proportion to the bytes,
 * times the depth of tables whose keys are integers. */
int cm_json_write(struct cm_bytes value, uint64_t now_ms, bool lenient, struct cm_buf *out);

/* Appends the bytes as a JSON string. 0, or CM_E_NOMEMORY with `out` holding what it held. */
int cm_json_string(struct cm_bytes bytes, struct cm_buf *out);

#endif
