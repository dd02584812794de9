#ifndef TESTS_SIM_PRODUCT_H
#define TESTS_SIM_PRODUCT_H

/* The product's functions behind those that the ledger stands in front of, and between both, in a build with
 * SIM_PLANTED, a planted defect. */

#include "daemon/driver.h"

void __real_coordinator_decide(const struct coordinator *coordinator, const struct event *event,
                               struct decision *decision);
enum status __real_store_commit(struct store *store, const char *decision,
                                const struct record *records, size_t count, struct fault *fault);
void __real_coordinator_apply(struct coordinator *coordinator, const struct record *records,
                              size_t count, uint64_t now_ms);

#ifdef SIM_PLANTED
void product_decide(const struct coordinator *coordinator, const struct event *event,
                    struct decision *decision);
enum status product_commit(struct store *store, const char *decision, const struct record *records,
                           size_t count, struct fault *fault);
void product_apply(struct coordinator *coordinator, const struct record *records, size_t count,
                   uint64_t now_ms);
void product_start(struct driver *driver);
#else
#define product_decide __real_coordinator_decide
#define product_commit __real_store_commit
#define product_apply  __real_coordinator_apply
#define product_start  driver_start
#endif

#endif
