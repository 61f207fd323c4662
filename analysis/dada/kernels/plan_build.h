/* Builds and frees the tables of a plan. */
#ifndef DADA_PLAN_BUILD_H
#define DADA_PLAN_BUILD_H

#include "plan.h"

/* Fill in the tables of a zeroed plan whose numbers are set. `valid`: (n_pixels + 7) / 8 bytes of bits, the bits past
 * the last pixel 0; `bins`: n_pixels or NULL; `rois`: n_rois times as many bytes as `valid`. False without memory;
 * plan_free is due either way. */
bool plan_build(Plan *plan, const uint8_t *valid, const uint16_t *bins, const uint8_t *rois);

void plan_free(Plan *plan);

#endif
