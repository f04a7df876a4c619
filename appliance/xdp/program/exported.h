/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Types that no map names and that the daemon shares all the same: through this pointer they
 * reach the object's BTF, from which the Rust types are generated. Nobody reads it.
 */
#ifndef HAFLINGER_EXPORTED_H
#define HAFLINGER_EXPORTED_H

#include "reasons.h"
#include "types.h"

struct exported {
	enum direction direction;
	enum mode mode;
	enum record_state record_state;
	enum phase phase;
	enum algorithm algorithm;
	enum backend_state backend_state;
	enum reason reason;
	enum stage stage;
	struct trace_event trace_event;
	struct deferred deferred;
	struct sweep sweep;
};

const struct exported *const volatile exported = 0;

#endif
