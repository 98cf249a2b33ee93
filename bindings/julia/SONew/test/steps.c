/* Steps by the C API alone, for the test that Julia gets the same bits.
 *
 * steps INPUT OUTPUT BAND GRAFT DTYPE STATE_DTYPE MASTER ROUNDING LAGGED NESTEROV BETAS
 *       POOLING RANK
 *
 * Two tensors, of 13 x 7 and of 11 numbers. INPUT has their parameters, then for
 * each step their gradients, until it ends; in the third step the second tensor
 * takes no part, and with BETAS the fourth has betas of its own. OUTPUT gets the
 * parameters, then all state planes, and then what each tensor's settings are. */
#include <stdio.h>
#include <stdlib.h>

#include <sonew.h>

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "line %d: %s\n", __LINE__, sonew_last_error());    \
            return 1;                                                          \
        }                                                                      \
    } while (0)

int main(int argc, char **argv) {
    CHECK(argc == 14);
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    CHECK(in && out);
    sonew_options options;
    CHECK(sonew_options_init(&options, sizeof options) == SONEW_OK);
    options.band = atoi(argv[3]);
    options.graft = atoi(argv[4]);
    options.rounding = atoi(argv[8]);
    options.lagged_norms = atoi(argv[9]);
    options.nesterov = atoi(argv[10]);
    options.pooling = atoi(argv[12]);
    options.rank = atoi(argv[13]);
    options.shrink = 0.1;
    options.seed = 5;
    options.weight_decay = 0.01;
    int dtype = atoi(argv[5]), state = atoi(argv[6]), master = atoi(argv[7]);
    sonew_tensor tensors[2] = {
        {.struct_size = sizeof *tensors, .name = "1", .ndim = 2, .dims = {7, 13}},
        {.struct_size = sizeof *tensors, .name = "2", .ndim = 1, .dims = {11}},
    };
    for (int i = 0; i < 2; i++) {
        tensors[i].dtype = dtype;
        tensors[i].state_dtype = state;
        tensors[i].master = master;
    }
    sonew_optimizer *optimizer;
    CHECK(sonew_create(&options, tensors, 2, &optimizer) == SONEW_OK);

    static double p1[13 * 7], p2[11], g1[13 * 7], g2[11];
    size_t size = dtype == SONEW_F64 ? 8 : dtype == SONEW_F32 ? 4 : 2;
    CHECK(fread(p1, size, 13 * 7, in) == 13 * 7 && fread(p2, size, 11, in) == 11);
    sonew_step_options step;
    CHECK(sonew_step_options_init(&step, sizeof step) == SONEW_OK);
    step.lr = 0.03;
    step.clip_norm = 5;
    for (int number = 1; fread(g1, size, 13 * 7, in) == 13 * 7; number++) {
        CHECK(fread(g2, size, 11, in) == 11);
        void *params[] = {p1, p2};
        const void *grads[] = {g1, number == 3 ? NULL : g2};
        int betas = number == 4 && atoi(argv[11]);
        step.beta1 = betas ? 0.5 : -1;
        step.beta2 = betas ? 0.75 : -1;
        CHECK(sonew_step(optimizer, &step, params, grads, 2) == SONEW_OK);
    }
    fwrite(p1, size, 13 * 7, out);
    fwrite(p2, size, 11, out);
    for (size_t tensor = 0; tensor < 2; tensor++) {
        sonew_view view = {.plane_count = 1};
        for (int plane = 0; plane < view.plane_count; plane++) {
            CHECK(sonew_plane_view(optimizer, tensor, plane, &view, sizeof view) == SONEW_OK);
            size_t bytes = view.dtype == SONEW_F64 ? 8 : view.dtype == SONEW_F32 ? 4 : 2;
            fwrite(view.data, bytes, view.len, out);
        }
    }
    for (size_t tensor = 0; tensor < 2; tensor++) {
        sonew_settings settings;
        CHECK(sonew_get_settings(optimizer, tensor, &settings, sizeof settings) == SONEW_OK);
        fwrite(&settings.lr_scale, sizeof settings.lr_scale, 1, out);
        fwrite(&settings.weight_decay, sizeof settings.weight_decay, 1, out);
        fwrite(&settings.step_count, sizeof settings.step_count, 1, out);
        fwrite(settings.scalars, sizeof *settings.scalars, SONEW_SCALARS, out);
    }
    CHECK(fclose(out) == 0);
    return sonew_free(optimizer) != SONEW_OK;
}
