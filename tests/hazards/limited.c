/* Under the system's own limit of threads, steps go on with those that it gives. Needs
 * the right to become another user, because the limit does not hold for root. */
#define _GNU_SOURCE
#include <sys/resource.h>

#include "guest.h"

enum { STEPS = 3, NOBODY = 65531, GIVEN = 2 };

int main(void) {
    float *numbers = expected(STEPS);
    struct model m = model(4);
    struct rlimit limit = {1 + GIVEN, 1 + GIVEN};
    if (setresuid(NOBODY, NOBODY, NOBODY) != 0 || setrlimit(RLIMIT_NPROC, &limit) != 0) {
        puts("no right to become another user");
        return 0;
    }
    for (int i = 0; i < STEPS; i++)
        OK(take_step(&m, i));
    CHECK(same(m.param, numbers));
    CHECK(tasks() == 1 + GIVEN);
    size_t threads = 0;
    threads = info_of(m.optimizer).threads;
    CHECK(threads == 1 + GIVEN);
    end(&m);
    CHECK(left(1));
    free(numbers);
    puts("steps go on");
    return 0;
}
