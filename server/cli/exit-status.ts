/** Exit statuses of all commands. */
export const DONE = 0;
/** Refused or failed: one line on stderr says why, and what to do. */
export const REFUSED = 1;
/** The command line itself is wrong. */
export const WRONG_USAGE = 2;
