/* Freed handles, handles of another kind, and what was never a handle. */
#include <pthread.h>

#include "guest.h"

static void *stepping(void *argument) {
    struct model *m = argument;
    for (int i = 0; i < 20; i++) {
        sonew_status status = take_step(m, i);
        CHECK(status == SONEW_OK || status == SONEW_BAD_HANDLE);
    }
    return NULL;
}

/* Whatever a program does with it, a handle that is not live is refused. */
static void refused(sonew_optimizer *bad, const char *path) {
    float w = 0;
    void *params[] = {&w};
    const void *grads[] = {&w};
    sonew_tensor tensor;
    sonew_settings settings = {.struct_size = sizeof settings, .lr_scale = 1};
    sonew_stages *stages;
    sonew_optimizer_info info;
    sonew_view view;
    sonew_status answers[] = {
        sonew_free(bad),
        sonew_step(bad, NULL, params, grads, 1),
        sonew_stages_begin(bad, NULL, params, grads, 1, &stages),
        sonew_stages_next((sonew_stages *)bad, &settings.lr_scale, 1, &(int32_t){0}),
        sonew_stages_abort((sonew_stages *)bad),
        sonew_save(bad, path, params, 1),
        sonew_load(bad, path, NULL, params, 1),
        sonew_get_tensor(bad, 0, &tensor, sizeof tensor),
        sonew_set_settings(bad, 0, &settings),
        sonew_get_settings(bad, 0, &settings, sizeof settings),
        sonew_info(bad, &info, sizeof info),
        sonew_plane_view(bad, 0, 0, &view, sizeof view),
        sonew_reset_master(bad),
        sonew_plan_free((sonew_plan *)bad),
    };
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        CHECK(answers[i] == SONEW_BAD_HANDLE);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[4096];
    snprintf(path, sizeof path, "%s/handles.safetensors", argv[1]);
    struct model m = model(2);
    OK(take_step(&m, 0));
    sonew_optimizer *freed = m.optimizer;
    end(&m);
    refused(freed, path);
    CHECK(strstr(sonew_last_error(), "not a live handle"));

    /* Its slot is reused, but the handle is still refused. */
    struct model next = model(1);
    refused(freed, path);

    sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "w"};
    sonew_plan *plan = NULL;
    OK(sonew_plan_create(NULL, &tensor, 1, &plan));
    CHECK(sonew_step(NULL, NULL, NULL, NULL, 0) == SONEW_NULL_POINTER);
    CHECK(sonew_free((sonew_optimizer *)plan) == SONEW_BAD_HANDLE);
    CHECK(sonew_plan_free((sonew_plan *)next.optimizer) == SONEW_BAD_HANDLE);
    OK(sonew_plan_free(plan));
    CHECK(sonew_plan_free(plan) == SONEW_BAD_HANDLE);

    double on_the_stack = 0;
    refused((sonew_optimizer *)(void *)&on_the_stack, path);
    void *memory = malloc(64);
    refused(memory, path);
    free(memory);
    refused((sonew_optimizer *)1, path);

    /* Freed while another thread steps: refused, or done between two steps. */
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, stepping, &next));
    sonew_status status;
    do
        status = sonew_free(next.optimizer);
    while (status == SONEW_BUSY);
    CHECK(status == SONEW_OK);
    CHECK(!pthread_join(thread, NULL));
    refused(next.optimizer, path);
    free(next.param);
    free(next.grad);
    puts("refused");
    return 0;
}
