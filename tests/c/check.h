/* What the C tests share. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sonew.h>

/* Ends the program unless the condition holds. */
#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: not true: %s\n  last error: %s\n",         \
                    __FILE__, __LINE__, #condition, sonew_last_error());       \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

#define OK(call) CHECK((call) == SONEW_OK)

/* The list of one buffer. */
#define PARAM(buffer) ((void *const[]){buffer})
#define GRAD(buffer) ((const void *const[]){buffer})

static inline sonew_optimizer_info info_of(const sonew_optimizer *optimizer) {
    sonew_optimizer_info info;
    OK(sonew_info(optimizer, &info, sizeof info));
    return info;
}

static inline sonew_settings settings_of(const sonew_optimizer *optimizer, size_t tensor) {
    sonew_settings settings;
    OK(sonew_get_settings(optimizer, tensor, &settings, sizeof settings));
    return settings;
}

static inline sonew_status set_lr_scale(sonew_optimizer *optimizer, size_t tensor, double scale) {
    sonew_settings settings = settings_of(optimizer, tensor);
    settings.lr_scale = scale;
    return sonew_set_settings(optimizer, tensor, &settings);
}

static inline sonew_planes planes_of(const sonew_plan *plan, size_t tensor) {
    sonew_planes planes;
    OK(sonew_plan_planes(plan, tensor, &planes, sizeof planes));
    return planes;
}

#endif
