/* Requests for blocks on one data channel, and their replies: see fetches.c. */
#ifndef DADAFS_FETCHES_H
#define DADAFS_FETCHES_H

#include "answers.h"
#include "frames.h"

struct fetches; /* one data channel, a Python object */

/* Called once with the reply, its blocks received and verified (`intact` says with what result), or with NULL where it is
 * anything else. */
typedef void landed_fn(void *whose, const struct blocks *blocks, int intact);

/* Ask for `request->count` blocks, `length` bytes, to be received into `into`; its number, 0 where nothing was asked. */
uint32_t fetches_begin(struct fetches *channel, const struct block_request *request, uint8_t *into, size_t length,
                       landed_fn *landed, void *whose);

/* Keep the requests begun from now on, of all channels, or no more; and send what is kept. */
void fetches_hold_back(int whether);
void fetches_send_all(void);

/* Give a request up: `landed` will not be called, and nothing is written any more. 0 where it was over already. */
int fetches_abandon(struct fetches *channel, uint32_t id);

/* Whether requests can be begun now, whether never again, and how many are under way. */
int fetches_open(const struct fetches *channel);
int fetches_over(const struct fetches *channel);
unsigned fetches_pending(const struct fetches *channel);

/* `object` as a data channel; NULL, with an exception, where it is none. */
struct fetches *fetches_of(PyObject *object);

/* The descriptors of the channels that owe replies, at most `room`; how many. */
struct pollfd;
int fetches_awaited(struct pollfd *fds, int room);

/* Receive a piece of what is there on the channel with this descriptor. */
void fetches_receive(int fd);

/* Tell nobody but who asks here that this channel has something; and again of all. */
void fetches_mask(int fd);
void fetches_unmask(void);

/* Add the type `Fetches` to the module; 0, or -1. */
int fetches_add_type(PyObject *module);

#endif
