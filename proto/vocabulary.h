#ifndef PROTO_VOCABULARY_H
#define PROTO_VOCABULARY_H

/*
 * Token ids of the formats that have a vocabulary of their own. They are part of what a checkpoint means:
 * never renumber one. A `tokens` file brings its own ids; where the objective needs a MASK, that is the id
 * behind them, data.vocab.
 */

/* fasta: the 20 amino acids in alphabetical order of their letters, then the letters for rare and unclear
 * ones, then what stands for no residue. The id of a letter is its place in this text. */
#define FASTA_LETTERS "ACDEFGHIKLMNPQRSTVWYBOUXZ"

enum {
    FASTA_BOS = 25,
    FASTA_EOS = 26,
    FASTA_PAD = 27,
    FASTA_MASK = 28,
    FASTA_VOCAB = 29,
};

/* text: a byte is its own id. */
enum {
    TEXT_EOS = 256,
    TEXT_PAD = 257,
    TEXT_MASK = 258,
    TEXT_VOCAB = 259,
};

#endif
