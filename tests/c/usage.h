/* What the parts of the program that uses every function share: one small model, and
 * the parts themselves. */
#ifndef USAGE_H
#define USAGE_H

#include "check.h"

#define COUNT 2
#define WEIGHT 12
#define BIAS 3

extern float weight[WEIGHT], bias[BIAS], weight_grad[WEIGHT], bias_grad[BIAS];
extern void *params[COUNT];
extern const void *grads[COUNT];

/* Parameters and gradients as at the start. */
void fill_all(void);
/* fc1.weight, of 3 by 4, and fc1.bias. */
void describe(sonew_tensor tensors[COUNT]);
sonew_options with_band(int32_t band);
/* An optimizer of these tensors and options. */
sonew_optimizer *create(int32_t band);
uint64_t step_count(const sonew_optimizer *optimizer);
/* The step count of a tensor. */
uint64_t count_of(sonew_optimizer *optimizer, size_t tensor);

/* usage_files.c. folder is one to write to. */
void files(sonew_optimizer *optimizer, const char *folder);
void contents_of_files(const char *folder);
void live_files(const char *folder);
void typed(const char *folder);
void shards(const char *folder);

/* usage_program.c */
void program(const char *folder);

/* usage_plans.c */
void stateless(void);
void step_counts(void);
void empty(const char *folder);
void scalars(void);

#endif
