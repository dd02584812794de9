#ifndef WORKER_FASTA_H
#define WORKER_FASTA_H

/*
 * Protein sequences in FASTA: a line that begins with '>' names a record, the lines below hold its
 * residues, wrapped anywhere. Letters of either case are the 20 amino acids and B O U X Z
 * (proto/vocabulary.h); a '*' that ends a record is dropped, blanks and carriage returns are
 * skipped, and so is a record without residues.
 */

#include "worker/record.h"

/* Gives each record's residues to the sink. Blocks. ST_BAD_DATA with file, line, column and the
 * cure: a letter that is none of the 25, residues before the first '>'; further what byte_source
 * and the sink fail with. */
enum status fasta_read(const char *path, const struct record_sink *sink, struct fault *fault);

#endif
