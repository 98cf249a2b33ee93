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

static inline sonew_optimizer_info info_of(const sonew_optimizer *optimizer) {
    sonew_optimizer_info info;
    OK(sonew_info(optimizer, &info, sizeof info));
    return info;
}

#endif
