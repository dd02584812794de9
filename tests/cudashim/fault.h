#ifndef CUDASHIM_FAULT_H
#define CUDASHIM_FAULT_H

/*
 * A fault that the environment asks for, for programs that no test can reach into:
 *
 *   CUDASHIM_FAULT="KIND RANK NTH MARK"
 *
 * At the n-th occasion of its kind, from 1, in the rank that mpirun or srun has started as RANK, if that is the one who makes
 * the file MARK: so it strikes once, however often the ranks are started.
 */

namespace cudashim
{
enum class Fault {
    Device,   /* "device": a launch finds the device ruined */
    Kill,     /* "kill": the process dies in a collective, half of it told to the others */
    Mismatch, /* "mismatch": a collective is one of another size than was asked for */
};

/* To be called at each occasion. */
bool fault_strikes(Fault kind);
} // namespace cudashim

#endif
