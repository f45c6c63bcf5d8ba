/* A program that a compiled WebAssembly module is linked to.
 *
 *     gcd A B     prints the greatest common divisor, as examples/numbers.wat computes it
 *     gcd --fail  shows how mistakes are reported, on stderr
 */
#include <cwasm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What `cwasm compile --emit object` put into numbers.o. */
extern const uint8_t cwasm_artifact_numbers[];
extern const uint64_t cwasm_artifact_numbers_size;
extern const uint8_t cwasm_artifact_numbers_digest[32];

/* Prints an error, if there is one, and frees it. */
static int failed(const char *what, cwasm_error_t *error) {
  if (error == NULL) {
    return 0;
  }
  fprintf(stderr, "%s: %s\n", what, cwasm_error_message(error));
  cwasm_error_free(error);
  return 1;
}

static void show_failures(cwasm_instance_t *instance) {
  uint8_t digest[32] = {0};
  cwasm_artifact_t *other = NULL;
  failed("wrong digest", cwasm_artifact_load(cwasm_artifact_numbers, cwasm_artifact_numbers_size,
                                             digest, &other));
  cwasm_artifact_free(other);
  cwasm_instance_t *none = NULL;
  failed("null", cwasm_instance_new(NULL, &none));
  failed("no function", cwasm_instance_call(instance, "none", NULL, 0, NULL, 0));
  cwasm_value_t arguments[2] = {{.kind = CWASM_F32, .of.f32 = 1},
                                {.kind = CWASM_I64, .of.i64 = 2}};
  cwasm_value_t result;
  failed("wrong type", cwasm_instance_call(instance, "gcd", arguments, 2, &result, 1));
  failed("no room", cwasm_instance_call(instance, "gcd", arguments, 2, NULL, 0));
  arguments[0].kind = 9;
  failed("wrong kind", cwasm_instance_call(instance, "gcd", arguments, 2, &result, 1));
}

int main(int count, char **words) {
  cwasm_artifact_t *artifact = NULL;
  cwasm_instance_t *instance = NULL;
  int status = EXIT_FAILURE;

  if (failed("cannot load", cwasm_artifact_load(cwasm_artifact_numbers, cwasm_artifact_numbers_size,
                                                cwasm_artifact_numbers_digest, &artifact)) ||
      failed("cannot instantiate", cwasm_instance_new(artifact, &instance))) {
    goto done;
  }
  if (count == 2 && strcmp(words[1], "--fail") == 0) {
    show_failures(instance);
    status = EXIT_SUCCESS;
  } else if (count == 3) {
    cwasm_value_t arguments[2] = {
        {.kind = CWASM_I64, .of.i64 = strtoll(words[1], NULL, 10)},
        {.kind = CWASM_I64, .of.i64 = strtoll(words[2], NULL, 10)},
    };
    cwasm_value_t result;
    if (!failed("cannot call gcd",
                cwasm_instance_call(instance, "gcd", arguments, 2, &result, 1))) {
      printf("%lld\n", (long long)result.of.i64);
      status = EXIT_SUCCESS;
    }
  } else {
    fprintf(stderr, "usage: gcd A B\n");
  }
done:
  cwasm_instance_free(instance);
  cwasm_artifact_free(artifact);
  return status;
}
