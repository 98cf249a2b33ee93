/* A save in the background saves the state at the moment when it began, whatever
 * the optimizer does meanwhile; two optimizers save at once. argv[1] is a folder
 * to write to. */
#include <pthread.h>

#include "guest.h"

enum { SAVES = 4 };

static const char *folder;

static void *train(void *argument) {
    int id = (int)(size_t)argument;
    struct model m = model(2), other = model(1);
    char path[4096];
    snprintf(path, sizeof path, "%s/background-%d.safetensors", folder, id);
    float *then = malloc(LENGTH * sizeof *then);
    CHECK(then != NULL);
    for (int i = 0; i < SAVES; i++) {
        OK(take_step(&m, 3 * i));
        memcpy(then, m.param, LENGTH * sizeof *then);
        sonew_saving *saving = NULL;
        void *params[] = {m.param};
        OK(sonew_save_begin(m.optimizer, path, params, 1, &saving));
        OK(take_step(&m, 3 * i + 1));
        OK(take_step(&m, 3 * i + 2));
        OK(sonew_save_finish(saving));
        OK(sonew_load(other.optimizer, path, NULL, PARAM(other.param), 1));
        CHECK(same(other.param, then));
        uint64_t count = 0;
        count = info_of(other.optimizer).step_count;
        CHECK(count == (uint64_t)(3 * i + 1));
        /* What was loaded takes the same steps. */
        OK(take_step(&other, 3 * i + 1));
        OK(take_step(&other, 3 * i + 2));
        CHECK(same(other.param, m.param));
    }
    free(then);
    end(&m);
    end(&other);
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    folder = argv[1];
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++)
        CHECK(!pthread_create(&threads[i], NULL, train, (void *)i));
    for (size_t i = 0; i < 2; i++)
        CHECK(!pthread_join(threads[i], NULL));
    puts("saves hold their moment");
    return 0;
}
