/* Saving and loading work in a program with another rounding mode, and do not
 * change that mode. */
#include <fenv.h>
#include <stdio.h>

#include "check.h"

static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[4096];
    CHECK(snprintf(path, sizeof path, "%s/mode.safetensors", argv[1]) < (int)sizeof path);

    /* Fractions that binary numbers cannot represent. */
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.beta1 = 0.95;
    options.beta2 = 0.966;
    options.eps = 1.4e-6;
    options.gamma = 0.0123;
    sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 1, .dims = {3}};
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, &tensor, 1, &optimizer));
    sonew_settings settings = settings_of(optimizer, 0);
    settings.lr_scale = 0.1;
    settings.weight_decay = 0.007;
    OK(sonew_set_settings(optimizer, 0, &settings));

    float w[] = {1, 2, 3};
    const float grad[] = {0.1f, 0.2f, 0.3f};
    void *params[] = {w};
    const void *grads[] = {grad};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        CHECK(!fesetround(modes[i]));
        OK(sonew_step(optimizer, NULL, params, grads, 1));
        OK(sonew_save(optimizer, path, params, 1));
        OK(sonew_load(optimizer, path, NULL, params, 1));
        sonew_settings now;
        OK(sonew_get_settings(optimizer, 0, &now, sizeof now));
        CHECK(fegetround() == modes[i]);
        CHECK(!fesetround(FE_TONEAREST));
        CHECK(now.lr_scale == 0.1 && now.weight_decay == 0.007);
    }
    OK(sonew_free(optimizer));
    puts("modes kept");
    return 0;
}
