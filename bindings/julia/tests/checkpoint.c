/* Opens the file that the Julia example left, and writes its parameters.
 *
 * checkpoint FILE STEP OUTPUT */
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
    CHECK(argc == 4);
    CHECK(sonew_verify(argv[1]) == SONEW_OK);
    /* As setup() names and turns them: W[in, out] has the shape [out, in]. */
    sonew_tensor tensors[] = {
        {.name = "first.W", .ndim = 2, .dims = {48, 2}},
        {.name = "first.b", .ndim = 1, .dims = {48}},
        {.name = "second.W", .ndim = 2, .dims = {48, 48}},
        {.name = "second.b", .ndim = 1, .dims = {48}},
        {.name = "last.W", .ndim = 2, .dims = {1, 48}},
        {.name = "last.b", .ndim = 1, .dims = {1}},
    };
    enum { COUNT = sizeof tensors / sizeof *tensors };
    static float values[COUNT][48 * 48];
    void *params[COUNT];
    for (int i = 0; i < COUNT; i++) {
        params[i] = values[i];
        tensors[i].struct_size = sizeof *tensors;
        tensors[i].master = 1;
    }
    FILE *out = fopen(argv[3], "wb");
    CHECK(out);

    /* Into memory, and then on with it. */
    for (int mode = SONEW_READ; mode <= SONEW_MAP_SHARED; mode += SONEW_MAP_SHARED) {
        sonew_optimizer *optimizer;
        CHECK(sonew_create(NULL, tensors, COUNT, &optimizer) == SONEW_OK);
        sonew_load_options load;
        CHECK(sonew_load_options_init(&load, sizeof load) == SONEW_OK);
        load.mode = mode;
        CHECK(sonew_load(optimizer, argv[1], &load, params, COUNT) == SONEW_OK);
        sonew_optimizer_info info;
        CHECK(sonew_info(optimizer, &info, sizeof info) == SONEW_OK);
        CHECK(info.step_count == strtoull(argv[2], NULL, 10));
        CHECK(sonew_free(optimizer) == SONEW_OK);
    }
    for (int i = 0; i < COUNT; i++) {
        size_t n = tensors[i].ndim == 2 ? tensors[i].dims[0] * tensors[i].dims[1]
                                        : tensors[i].dims[0];
        CHECK(fwrite(params[i], sizeof(float), n, out) == n);
    }
    CHECK(fclose(out) == 0);
    printf("C opens the example's file\n");
    return 0;
}
