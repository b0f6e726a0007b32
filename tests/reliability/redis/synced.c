/* Loaded into a Redis by test_power_cut.py: notes, after each fsync of a file, how long it then was for certain. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int noted(const char *name, int fd) {
  int (*real)(int) = dlsym(RTLD_NEXT, name);
  char link[64], path[4096], line[4200];
  struct stat before;
  if (fstat(fd, &before) != 0) return real(fd);
  int result = real(fd);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (result == 0 && length > 0 && S_ISREG(before.st_mode)) {
    path[length] = 0;
    int log = open("synced", O_WRONLY | O_APPEND | O_CREAT, 0600);
    int size = snprintf(line, sizeof line, "%lld %s\n", (long long)before.st_size, path);
    if (write(log, line, size) != size) result = -1;
    close(log);
  }
  return result;
}

int fsync(int fd) { return noted("fsync", fd); }
int fdatasync(int fd) { return noted("fdatasync", fd); }
