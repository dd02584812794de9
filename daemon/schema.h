#ifndef DAEMON_SCHEMA_H
#define DAEMON_SCHEMA_H

/* The tables of performerd.db as the steps that lead to them; PRAGMA user_version counts those taken. */

/* In PRAGMA application_id: "PFRM". */
enum { SCHEMA_APPLICATION_ID = 0x5046524D };

/* NULL behind the last. Never change one that has been released: append. */
extern const char *const schema_migrations[];

/* NULL behind the last: tables that decisions stand on, checked whole when the database is opened. */
extern const char *const schema_vital_tables[];

#endif
