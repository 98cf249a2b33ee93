/* A forked child in a pid namespace of its own, where it has the same number as its
 * parent, is a child all the same: it takes steps with threads of its own, and cannot
 * use what belongs to its parent. Needs the right to make namespaces. argv[1] is a
 * folder to write to. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "guest.h"

static void succeeded(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(!WIFSIGNALED(status));
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) == 0)
        return;
    CHECK(WEXITSTATUS(status) == 77);
    puts("no right to make namespaces");
    exit(0);
}

/* A child that is process 1. */
static pid_t first_of_its_namespace(void) {
    if (unshare(CLONE_NEWPID) != 0)
        exit(77);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        CHECK(getpid() == 1);
    return child;
}

/* In the child: threads of its own, no live file, no save of its parent. */
static void in_child(struct model *m, struct model *on_file, sonew_saving *saving,
                     const float *numbers, const char *path) {
    OK(take_step(m, 1));
    OK(take_step(m, 2));
    CHECK(same(m->param, numbers));
    CHECK(take_step(on_file, 1) == SONEW_FORKED);
    CHECK(sonew_sync(on_file->optimizer) == SONEW_FORKED);
    CHECK(sonew_save(on_file->optimizer, path, NULL, 0) == SONEW_FORKED);
    CHECK(sonew_save_finish(saving) == SONEW_FORKED);
    end(on_file);
    end(m);
}

static void in_parent(const char *folder) {
    char path[4096], other[4096];
    snprintf(path, sizeof path, "%s/live.safetensors", folder);
    snprintf(other, sizeof other, "%s/saved.safetensors", folder);
    float *numbers = expected(3);
    struct model m = model(4), on_file = model(1);
    OK(take_step(&m, 0));
    OK(sonew_make_live(on_file.optimizer, path));
    OK(take_step(&on_file, 0));
    sonew_saving *saving = NULL;
    OK(sonew_save_begin(m.optimizer, other, NULL, 0, &saving));
    pid_t child = first_of_its_namespace();
    if (child == 0) {
        in_child(&m, &on_file, saving, numbers, path);
        _exit(0);
    }
    succeeded(child);
    /* The parent keeps its threads, its file and its save. */
    OK(take_step(&m, 1));
    OK(take_step(&m, 2));
    CHECK(same(m.param, numbers));
    OK(take_step(&on_file, 1));
    OK(sonew_save_finish(saving));
    end(&on_file);
    end(&m);
    OK(sonew_verify(path));
    OK(sonew_verify(other));
    free(numbers);
}

static pid_t parent;

/* Process 1 ignores its own alarm. When it is killed, so is its namespace. */
static void hangs(int number) {
    (void)number;
    kill(parent, SIGKILL);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    parent = first_of_its_namespace();
    if (parent == 0) {
        in_parent(argv[1]);
        _exit(0);
    }
    struct sigaction action = {.sa_handler = hangs, .sa_flags = SA_RESTART};
    CHECK(!sigaction(SIGALRM, &action, NULL));
    alarm(60);
    succeeded(parent);
    puts("children are known");
    return 0;
}
