#ifndef TESTS_SIM_PEOPLE_H
#define TESTS_SIM_PEOPLE_H

/* People of a simulated world: each submits a job and repeats that until it is answered; in between somebody wants
 * something of some run. */

#include <stdbool.h>

void people_begin(void);

/* Somebody asks for a redraw, a checkpoint, an end. */
void people_strike_act(void);

/* Somebody forks a run. */
void people_strike_fork(void);

/* In the calm: somebody comes by now and then and resumes what is paused. */
void people_resume_paused(void);

/* Somebody still waits for his submit to be answered. */
bool people_wait(void);

#endif
