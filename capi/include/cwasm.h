/* cwasm: loads compiled WebAssembly (.cwasm artifacts) and calls its functions.
 *
 * Link with libcwasm.a, and with what Rust's standard library needs:
 * -lgcc_s -lutil -lrt -lpthread -lm -ldl.
 *
 *     cwasm_artifact_t *artifact;
 *     cwasm_error_t *error = cwasm_artifact_load(bytes, size, digest, &artifact);
 *
 * - A function that can fail returns NULL when it did what it should, or else an error to be
 *   freed with cwasm_error_free. What it would have written through pointers is untouched then.
 * - An artifact is trusted because the caller knows its digest: that of an artifact that was linked
 *   to the program is linked with it. Its bytes are copied, and may be freed.
 * - An instance keeps its artifact alive: they may be freed in either order.
 * - Artifacts may be used by many threads at once. An instance may move between threads, and is used
 *   by one at a time.
 * - Passing NULL where an object is expected is an error, and no crash. Freeing NULL does nothing.
 * - This version provides no imports: modules that import something are refused.
 */
#ifndef CWASM_H
#define CWASM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Why something was not done. */
typedef struct cwasm_error cwasm_error_t;
/* Machine code and metadata of a module. */
typedef struct cwasm_artifact cwasm_artifact_t;
/* A module with its memory, tables and globals. */
typedef struct cwasm_instance cwasm_instance_t;

/* The types of values. */
#define CWASM_I32 0
#define CWASM_I64 1
#define CWASM_F32 2
#define CWASM_F64 3

/* A value: of the union's members, that of its kind. */
typedef struct cwasm_value {
  uint32_t kind;
  union {
    int32_t i32;
    int64_t i64;
    float f32;
    double f64;
  } of;
} cwasm_value_t;

/* What went wrong, in UTF-8, as one sentence or, for a trap, with a line for each function that was
 * running. Belongs to the error. */
const char *cwasm_error_message(const cwasm_error_t *error);
/* Whether the program trapped. */
bool cwasm_error_is_trap(const cwasm_error_t *error);
void cwasm_error_free(cwasm_error_t *error);

/* Loads the artifact in `size` bytes, if its root digest is the one in `digest`, 32 bytes. */
cwasm_error_t *cwasm_artifact_load(const uint8_t *bytes, size_t size, const uint8_t *digest,
                                   cwasm_artifact_t **artifact);
void cwasm_artifact_free(cwasm_artifact_t *artifact);

/* Instantiates an artifact, in a store of its own. */
cwasm_error_t *cwasm_instance_new(const cwasm_artifact_t *artifact, cwasm_instance_t **instance);
void cwasm_instance_free(cwasm_instance_t *instance);

/* Calls the exported function `name` (UTF-8, ends with a zero byte).
 *
 * The number and kinds of the arguments must be those of the function's type, and `result_count` the number of
 * its results, which are written to `results`. */
cwasm_error_t *cwasm_instance_call(cwasm_instance_t *instance, const char *name,
                                   const cwasm_value_t *arguments, size_t argument_count,
                                   cwasm_value_t *results, size_t result_count);

#ifdef __cplusplus
}
#endif

#endif
