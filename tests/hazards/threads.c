/* Two optimizers in two threads at once give the same results as each alone; of two
 * threads with one optimizer, one steps and the other gets "busy". */
#include <pthread.h>
#include <stdatomic.h>

#include "guest.h"

enum { STEPS = 10, CALLS = 60 };

static float *numbers;

static void *own(void *argument) {
    struct model m = model((int)(size_t)argument);
    for (int i = 0; i < STEPS; i++)
        OK(take_step(&m, i));
    CHECK(same(m.param, numbers));
    end(&m);
    return NULL;
}

static struct model shared;
static atomic_int done, refused, asked, ended;

/* Steps the shared optimizer with a zero gradient and buffers of its own, until all has
 * happened that is to be seen. */
static void *share(void *unused) {
    float *param = calloc(LENGTH, sizeof *param), *grad = calloc(LENGTH, sizeof *grad);
    CHECK(param && grad);
    const void *grads[] = {grad};
    for (int i = 0; i < CALLS || !(done && refused && asked); i++) {
        sonew_status status = sonew_step(shared.optimizer, NULL, PARAM(param), grads, 1);
        if (status == SONEW_OK) {
            done++;
        } else {
            CHECK(status == SONEW_BUSY);
            CHECK(strstr(sonew_last_error(), "optimizer is in use by another thread"));
            refused++;
        }
    }
    free(param);
    free(grad);
    ended++;
    return unused;
}

/* Reads information while others step: what there is to know of the optimizer as a whole
 * is always told, other questions succeed or find it busy. */
static void *ask(void *unused) {
    uint64_t last = 0;
    while (ended < 2) {
        sonew_optimizer_info info = info_of(shared.optimizer);
        CHECK(info.step_count >= last && info.tensor_count == 1);
        last = info.step_count;
        asked = last > 0;
        sonew_settings now;
        sonew_status status = sonew_get_settings(shared.optimizer, 0, &now, sizeof now);
        CHECK(status == SONEW_OK || status == SONEW_BUSY);
    }
    CHECK(last > 0);
    return unused;
}

int main(void) {
    numbers = expected(STEPS);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, own, (void *)(i % 2 + 1)));
    for (size_t i = 0; i < 4; i++)
        CHECK(!pthread_join(threads[i], NULL));

    shared = model(2);
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_create(&threads[i], NULL, i < 2 ? share : ask, NULL));
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_join(threads[i], NULL));
    uint64_t count = 0;
    count = info_of(shared.optimizer).step_count;
    CHECK(count == (uint64_t)done);
    end(&shared);
    free(numbers);
    puts("threads take turns");
    return 0;
}
