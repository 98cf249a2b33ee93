/* Makes functions of the C library fail, or take long, in a program that it is
 * preloaded into. SONEW_FAIL has names and errors, as "flock=37,fsync_folder=22";
 * SONEW_DELAY names and milliseconds that come before the call. A function that is
 * delayed creates the file that SONEW_REACHED names, so that others know. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The number that a variable has for a name, or 0. */
static int number_of(const char *variable, const char *name) {
    const char *text = getenv(variable);
    size_t length = strlen(name);
    while (text && *text) {
        if (strncmp(text, name, length) == 0 && text[length] == '=')
            return atoi(text + length + 1);
        text = strchr(text, ',');
        text = text ? text + 1 : NULL;
    }
    return 0;
}

static void delay(const char *name) {
    int milliseconds = number_of("SONEW_DELAY", name);
    if (milliseconds == 0)
        return;
    const char *reached = getenv("SONEW_REACHED");
    if (reached)
        close(open(reached, O_CREAT | O_WRONLY, 0600));
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static int fails(const char *name) {
    delay(name);
    int error = number_of("SONEW_FAIL", name);
    if (error)
        errno = error;
    return error;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int flock(int file, int operation) {
    return fails("flock") ? -1 : REAL(flock)(file, operation);
}

static int set_lock(int file, int command, void *argument) {
    if (command == F_SETLK && fails("fcntl"))
        return -1;
    return REAL(fcntl)(file, command, argument);
}

int fcntl(int file, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return set_lock(file, command, argument);
}

int fcntl64(int file, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return set_lock(file, command, argument);
}

int fsync(int file) {
    struct stat about;
    int folder = fstat(file, &about) == 0 && S_ISDIR(about.st_mode);
    return fails(folder ? "fsync_folder" : "fsync") ? -1 : REAL(fsync)(file);
}

int unlink(const char *path) { return fails("unlink") ? -1 : REAL(unlink)(path); }

int rename(const char *from, const char *to) {
    return fails("rename") ? -1 : REAL(rename)(from, to);
}

/* Interrupted the first time, if that is the error. */
static int allocate(int file, int mode, off_t offset, off_t length) {
    static int interrupted;
    int error = fails("fallocate");
    if (error && (error != EINTR || !interrupted++)) {
        errno = error;
        return -1;
    }
    return REAL(fallocate)(file, mode, offset, length);
}

int fallocate(int file, int mode, off_t offset, off_t length) {
    return allocate(file, mode, offset, length);
}

int fallocate64(int file, int mode, off64_t offset, off64_t length) {
    return allocate(file, mode, offset, length);
}
