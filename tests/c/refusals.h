/* A table of calls that must be refused, and the proof that nothing changed.
 *
 * Every call is made in the same small world: an optimizer that has taken steps,
 * a plan, their buffers, and a saved file. After each refusal all of these are
 * compared with their earlier contents. */
#ifndef REFUSALS_H
#define REFUSALS_H

#include "check.h"

typedef struct refusal {
    const char *name;
    sonew_status (*call)(void);
    sonew_status expected;
    const char *message; /* must be part of sonew_last_error() */
} refusal;

#define REFUSAL(call, expected, message) {#call, call, expected, message}

enum { COUNT = 2, LENGTH_A = 6, LENGTH_B = 3, PLANES = 3 };

/* The world. */
extern sonew_optimizer *optimizer;
extern sonew_plan *plan;
extern float a[LENGTH_A + 1], b[LENGTH_B], grad_a[LENGTH_A + 1], grad_b[LENGTH_B];
extern float planes_a[PLANES][LENGTH_A], planes_b[PLANES][LENGTH_B];
extern const char *folder;

/* New arguments, all valid. */
sonew_options good_options(void);
sonew_step_options good_step(void);
void good_tensors(sonew_tensor tensors[COUNT]);
void good_buffers(sonew_buffers buffers[COUNT]);
/* The path of a file in the folder; overwritten by the next call. */
const char *in_folder(const char *name);

extern const refusal create_refusals[], step_refusals[], plan_refusals[],
    file_refusals[], name_refusals[], other_refusals[], typed_refusals[], live_refusals[],
    shard_refusals[], program_refusals[];

#endif
