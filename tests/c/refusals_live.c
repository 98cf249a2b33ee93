/* Refusals of live files, mapped files, and saves in the background. */
#include "refusals.h"

static void *params[] = {a, b};

/* A second optimizer, like that of the world. */
static sonew_optimizer *another(void) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    sonew_optimizer *other = NULL;
    OK(sonew_create(NULL, tensors, COUNT, &other));
    return other;
}

static sonew_status load_as(const char *name, int32_t mode) {
    sonew_load_options with;
    OK(sonew_load_options_init(&with, sizeof with));
    CHECK(with.mode == SONEW_READ);
    with.mode = mode;
    return sonew_load(optimizer, in_folder(name), &with, NULL, 0);
}

/* Calls with "live.safetensors" in use by another optimizer. */
static sonew_status in_use(sonew_status (*call)(const char *path)) {
    sonew_optimizer *other = another();
    OK(sonew_make_live(other, in_folder("live.safetensors")));
    sonew_status status = call(in_folder("live.safetensors"));
    OK(sonew_free(other));
    return status;
}

static sonew_status saves(const char *path) {
    return sonew_save(optimizer, path, params, COUNT);
}
static sonew_status saves_behind(const char *path) {
    sonew_saving *saving = NULL;
    OK(sonew_save_begin(optimizer, path, params, COUNT, &saving));
    return sonew_save_finish(saving);
}
static sonew_status makes_live(const char *path) { return sonew_make_live(optimizer, path); }
static sonew_status reads(const char *path) {
    (void)path;
    return load_as("live.safetensors", SONEW_READ);
}
static sonew_status maps(const char *path) {
    (void)path;
    return load_as("live.safetensors", SONEW_MAP_PRIVATE);
}
static sonew_status shares(const char *path) {
    (void)path;
    return load_as("live.safetensors", SONEW_MAP_SHARED);
}

static sonew_status save_locked(void) { return in_use(saves); }
static sonew_status save_behind_locked(void) { return in_use(saves_behind); }
static sonew_status make_live_locked(void) { return in_use(makes_live); }
static sonew_status read_locked(void) { return in_use(reads); }
static sonew_status map_locked(void) { return in_use(maps); }
static sonew_status share_locked(void) { return in_use(shares); }
static sonew_status verify_locked(void) { return in_use(sonew_verify); }

static size_t read_file(const char *name, unsigned char *bytes, size_t size) {
    FILE *file = fopen(in_folder(name), "rb");
    CHECK(file != NULL);
    size_t length = fread(bytes, 1, size, file);
    CHECK(length > 1000 && length < size);
    fclose(file);
    return length;
}

/* Leaves "left.safetensors", a live file after three steps that were not synced,
 * as its process leaves it when it dies; and a copy of it, which is taken for the
 * file of a machine that has lost power. */
static void leave(void) {
    static unsigned char bytes[1 << 16];
    sonew_optimizer *other = another();
    float p[LENGTH_A + LENGTH_B] = {0}, g[LENGTH_A + LENGTH_B] = {1, 2, 3};
    void *ps[] = {p, p + LENGTH_A};
    const void *gs[] = {g, g + LENGTH_A};
    OK(sonew_make_live(other, in_folder("left.safetensors")));
    for (int i = 0; i < 3; i++)
        OK(sonew_step(other, NULL, ps, gs, COUNT));
    size_t length = read_file("left.safetensors", bytes, sizeof bytes);
    OK(sonew_free(other));
    const char *names[] = {"left.safetensors", "copy.safetensors"};
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(in_folder(names[i]), "wb");
        CHECK(file != NULL && fwrite(bytes, 1, length, file) == length);
        fclose(file);
    }
}

static sonew_status unsynced(void) {
    leave();
    return sonew_verify(in_folder("left.safetensors"));
}
static sonew_status torn_read(void) {
    leave();
    return load_as("copy.safetensors", SONEW_READ);
}
static sonew_status torn_mapped(void) { return load_as("copy.safetensors", SONEW_MAP_PRIVATE); }
static sonew_status torn_shared(void) { return load_as("copy.safetensors", SONEW_MAP_SHARED); }
static sonew_status torn_verified(void) { return sonew_verify(in_folder("copy.safetensors")); }

static sonew_status sync_not_live(void) { return sonew_sync(optimizer); }
static sonew_status share_checkpoint(void) {
    return load_as("good.safetensors", SONEW_MAP_SHARED);
}
static sonew_status mode_unknown(void) { return load_as("good.safetensors", 3); }

#define SHARED_WITH(name, change)                                              \
    static sonew_status name(void) {                                           \
        const char *renames[] = {"a", "a"};                                    \
        sonew_load_options with;                                               \
        OK(sonew_load_options_init(&with, sizeof with));                       \
        with.mode = SONEW_MAP_SHARED;                                          \
        with.renames = renames;                                                \
        change;                                                                \
        return sonew_load(optimizer, in_folder("live.safetensors"), &with,     \
                          NULL, 0);                                            \
    }

SHARED_WITH(share_overriding, with.override_options = 1)
SHARED_WITH(share_common, with.common_tensors_only = 1)
SHARED_WITH(share_renaming, with.rename_count = 1)
SHARED_WITH(older_copy_2, with.older_copy = 2)
SHARED_WITH(share_converting, with.convert_state = 1)

static sonew_status own_live_with_params(void) {
    sonew_optimizer *other = another();
    OK(sonew_make_live(other, in_folder("live.safetensors")));
    sonew_status status = sonew_save(other, in_folder("live.safetensors"), params, COUNT);
    OK(sonew_save(other, in_folder("live.safetensors"), NULL, 0)); /* a sync */
    OK(sonew_free(other));
    return status;
}

static sonew_status own_live(int32_t mode) {
    sonew_optimizer *other = another();
    OK(sonew_make_live(other, in_folder("live.safetensors")));
    sonew_load_options with;
    OK(sonew_load_options_init(&with, sizeof with));
    with.mode = mode;
    sonew_status status = sonew_load(other, in_folder("live.safetensors"), &with, NULL, 0);
    OK(sonew_free(other));
    return status;
}
static sonew_status read_own_live(void) { return own_live(SONEW_READ); }
static sonew_status map_own_live(void) { return own_live(SONEW_MAP_PRIVATE); }
static sonew_status share_own_live(void) { return own_live(SONEW_MAP_SHARED); }

/* After a step, the old view points to memory that the next step writes. */
static sonew_status step_with_old_view(void) {
    sonew_optimizer *other = another();
    OK(sonew_make_live(other, in_folder("live.safetensors")));
    float p[LENGTH_A + LENGTH_B] = {0}, g[LENGTH_A + LENGTH_B] = {1, 2, 3};
    void *ps[] = {p, p + LENGTH_A};
    const void *gs[] = {g, g + LENGTH_A};
    sonew_view old, now;
    OK(sonew_plane_view(other, 0, 0, &old, sizeof old));
    OK(sonew_step(other, NULL, ps, gs, COUNT));
    OK(sonew_plane_view(other, 0, 0, &now, sizeof now));
    CHECK(old.data != now.data);
    gs[0] = old.data;
    sonew_status status = sonew_step(other, NULL, ps, gs, COUNT);
    OK(sonew_free(other));
    return status;
}

static sonew_status live_path_null(void) { return sonew_make_live(optimizer, NULL); }
static sonew_status live_nowhere(void) { return sonew_make_live(optimizer, in_folder("none/file")); }
static sonew_status live_of_none(void) { return sonew_make_live(NULL, in_folder("x")); }
static sonew_status sync_of_none(void) { return sonew_sync(NULL); }
static sonew_status verify_null(void) { return sonew_verify(NULL); }
static sonew_status verify_no_file(void) { return sonew_verify(in_folder("none")); }
static sonew_status verify_damaged(void) {
    static unsigned char bytes[1 << 16];
    size_t length = read_file("good.safetensors", bytes, sizeof bytes);
    bytes[length - 61] ^= 1; /* before the padding */
    FILE *file = fopen(in_folder("bad.safetensors"), "wb");
    CHECK(file != NULL && fwrite(bytes, 1, length, file) == length);
    fclose(file);
    return sonew_verify(in_folder("bad.safetensors"));
}

static sonew_status begin_null(void) {
    return sonew_save_begin(optimizer, in_folder("x"), params, COUNT, NULL);
}
static sonew_status begin_too_few(void) {
    sonew_saving *saving = NULL;
    sonew_status status = sonew_save_begin(optimizer, in_folder("x"), params, 1, &saving);
    CHECK(saving == NULL);
    return status;
}
static sonew_status begin_askew(void) {
    void *askew[] = {a, (char *)b + 1};
    sonew_saving *saving = NULL;
    sonew_status status = sonew_save_begin(optimizer, in_folder("x"), askew, COUNT, &saving);
    CHECK(saving == NULL);
    return status;
}
static sonew_status finish_nowhere(void) {
    sonew_saving *saving = NULL;
    OK(sonew_save_begin(optimizer, in_folder("none/file"), params, COUNT, &saving));
    return sonew_save_finish(saving);
}
static sonew_status finish_twice(void) {
    sonew_saving *saving = NULL;
    OK(sonew_save_begin(optimizer, in_folder("twice.safetensors"), NULL, 0, &saving));
    OK(sonew_save_finish(saving));
    return sonew_save_finish(saving);
}
static sonew_status finish_optimizer(void) {
    sonew_saving *wrong;
    memcpy(&wrong, &optimizer, sizeof wrong);
    return sonew_save_finish(wrong);
}

#define IN_USE "live.safetensors\" is in use by another optimizer, process or save"

#define OWN "live.safetensors\" is the live file that holds this optimizer's state"

const refusal live_refusals[] = {
    REFUSAL(read_own_live, SONEW_FILE_LOCKED, OWN),
    REFUSAL(map_own_live, SONEW_FILE_LOCKED, OWN),
    REFUSAL(share_own_live, SONEW_FILE_LOCKED, OWN),
    REFUSAL(save_locked, SONEW_FILE_LOCKED, IN_USE),
    REFUSAL(save_behind_locked, SONEW_FILE_LOCKED, IN_USE),
    REFUSAL(make_live_locked, SONEW_FILE_LOCKED, IN_USE),
    REFUSAL(read_locked, SONEW_FILE_LOCKED, IN_USE),
    REFUSAL(map_locked, SONEW_FILE_LOCKED, IN_USE),
    REFUSAL(share_locked, SONEW_FILE_LOCKED, IN_USE),
    REFUSAL(verify_locked, SONEW_FILE_LOCKED, IN_USE),
    REFUSAL(unsynced, SONEW_UNSYNCED, "was not synced after its last step"),
    REFUSAL(torn_read, SONEW_TORN, "when the machine went down"),
    REFUSAL(torn_mapped, SONEW_TORN, "load the last save instead"),
    REFUSAL(torn_shared, SONEW_TORN, "copy.safetensors"),
    REFUSAL(torn_verified, SONEW_TORN, "copy.safetensors"),
    REFUSAL(sync_not_live, SONEW_NOT_LIVE, "not in a live file"),
    REFUSAL(share_checkpoint, SONEW_NOT_A_LIVE_FILE, "good.safetensors\" is not a live file"),
    REFUSAL(mode_unknown, SONEW_UNKNOWN_VALUE, "options.mode is 3"),
    REFUSAL(share_overriding, SONEW_SHARED_OPTION, "override_options cannot be combined with"),
    REFUSAL(share_common, SONEW_SHARED_OPTION, "common_tensors_only cannot be combined with"),
    REFUSAL(share_renaming, SONEW_SHARED_OPTION, "rename cannot be combined with"),
    REFUSAL(older_copy_2, SONEW_UNKNOWN_VALUE, "options.older_copy is 2"),
    REFUSAL(share_converting, SONEW_SHARED_OPTION, "convert_state cannot be combined with"),
    REFUSAL(own_live_with_params, SONEW_PLANE_MISSING, "tensor \"a\": the live file has no parameter, except as master weights"),
    REFUSAL(step_with_old_view, SONEW_OVERLAP, "momentum of tensor \"a\""),
    REFUSAL(live_path_null, SONEW_NULL_POINTER, "path is null"),
    REFUSAL(live_nowhere, SONEW_IO, "none/file"),
    REFUSAL(live_of_none, SONEW_NULL_POINTER, "optimizer is null"),
    REFUSAL(sync_of_none, SONEW_NULL_POINTER, "optimizer is null"),
    REFUSAL(verify_null, SONEW_NULL_POINTER, "path is null"),
    REFUSAL(verify_no_file, SONEW_IO, "cannot open"),
    REFUSAL(verify_damaged, SONEW_CHECKSUM, "the checksum of \"b/parameter\""),
    REFUSAL(begin_null, SONEW_NULL_POINTER, "saving is null"),
    REFUSAL(begin_too_few, SONEW_TENSOR_COUNT, "params has 1 tensors"),
    REFUSAL(begin_askew, SONEW_MISALIGNED, "tensor \"b\": the parameter at 0x"),
    REFUSAL(finish_nowhere, SONEW_IO, "none/file"),
    REFUSAL(finish_twice, SONEW_BAD_HANDLE, "saving is not a live handle"),
    REFUSAL(finish_optimizer, SONEW_BAD_HANDLE, "saving is not a live handle"),
    {0},
};
