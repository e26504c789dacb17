/* Loaded before libc in a test: the FAULT_AT-th call that changes a file whose
 * path contains FAULT_PATH fails with FAULT_ERRNO. Past the last call nothing
 * fails, and FAULT_MARK is not created. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_long calls;

static int fails(const char *path) {
  const char *wanted = getenv("FAULT_PATH"), *at = getenv("FAULT_AT");
  if (!wanted || !at || !path || !strstr(path, wanted)) return 0;
  if (atomic_fetch_add(&calls, 1) + 1 != atol(at)) return 0;
  int mark = REAL(open64)(getenv("FAULT_MARK"), O_CREAT | O_WRONLY, 0644);
  if (mark >= 0) close(mark);
  errno = atoi(getenv("FAULT_ERRNO"));
  return 1;
}

static int fails_fd(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return fails(path);
}

int open64(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  mode_t mode = va_arg(list, mode_t);
  va_end(list);
  if ((flags & O_CREAT) && fails(path)) return -1;
  return REAL(open64)(path, flags, mode);
}
ssize_t write(int fd, const void *data, size_t n) {
  return fails_fd(fd) ? -1 : REAL(write)(fd, data, n);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
  return fails_fd(fd) ? -1 : REAL(writev)(fd, parts, n);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags) {
  return fails_fd(out) ? -1 : REAL(copy_file_range)(in, from, out, to, n, flags);
}
int fsync(int fd) { return fails_fd(fd) ? -1 : REAL(fsync)(fd); }
int ftruncate64(int fd, off64_t n) { return fails_fd(fd) ? -1 : REAL(ftruncate64)(fd, n); }
int mkdir(const char *path, mode_t mode) { return fails(path) ? -1 : REAL(mkdir)(path, mode); }
int rename(const char *from, const char *to) {
  return fails(from) || fails(to) ? -1 : REAL(rename)(from, to);
}
