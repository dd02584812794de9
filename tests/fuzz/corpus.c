/* Without libFuzzer: runs the files of each DIRECTORY through the target, as an ordinary test. */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/durable.h"
#include "tests/fuzz/input.h"

enum { INPUT_BYTES_MAX = 1 << 20 };

static int run_file(const char *directory, const char *name)
{
    char path[4096], *bytes;
    size_t length;
    struct fault fault;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (file_read(path, INPUT_BYTES_MAX, &bytes, &length, &fault) != ST_OK) {
        fprintf(stderr, "%s\n", fault.text);
        exit(EXIT_FAILURE);
    }
    fprintf(stderr, "%s\n", path); /* the last one named is the one that did not end well */
    /* A block of just that size, so that a read past its end is seen by a sanitizer. */
    uint8_t *input = malloc(length > 0 ? length : 1);
    for (size_t i = 0; i < length; i++) input[i] = (uint8_t)bytes[i];
    free(bytes);
    LLVMFuzzerTestOneInput(input, length);
    free(input);
    return 1;
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *directory = opendir(argv[i]);
        if (!directory) {
            perror(argv[i]);
            return EXIT_FAILURE;
        }
        for (const struct dirent *entry; (entry = readdir(directory));)
            if (entry->d_name[0] != '.') count += run_file(argv[i], entry->d_name);
        closedir(directory);
    }
    printf("%d inputs\n", count);
    return count > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
