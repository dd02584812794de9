#ifndef CLI_COMPLETION_H
#define CLI_COMPLETION_H

/* Completion scripts made from cli/verbs.def; runs are asked of the daemon, silently and for a second at most. */

/* NULL: not a shell that we know. The script is the caller's, to be freed. */
char *completion_script(const char *shell);

#endif
