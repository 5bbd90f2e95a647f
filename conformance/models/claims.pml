/* Licensed under the Apache License, Version 2.0; see the file LICENSE.
 *
 * The life of one posting: claims, their expiry, lost and late messages, releases, the fence, and
 * the claims whose outcome nobody knows.
 *
 * What stands for what:
 *   Store, apply()      one indivisible step of any store: multiboard/primitives, LeaseLock
 *   Worker, call()      multiboard/runtime: the retry of whole operations, the claims of a board
 *   Keeper              multiboard/runtime: the unconfirmed claims, the deadline of a lease
 *   Network             what any network may do: lose a request, lose a reply, deliver late
 *
 * Every rule of the protocol has a switch that takes it away. The test beside this model demands
 * that the protocol as it is has no counterexample, and that it has one without each single rule:
 *   NO_FENCE        a removal or release does not compare the token
 *   NO_CLAIM_ID     a repeated acquisition does not find the lease of its first attempt
 *   NO_TOMBSTONE    a repeated removal does not find that it was done
 *   NO_GIVE_BACK    a claim that nobody knows of is not given back
 *   NO_REGISTER     a claim is handed out before the keeper can see that it is known
 *   NO_DEADLINE     a holder learns of the end of its lease after the store has ended it
 *   NO_CLAIM_FENCE  an acquisition that arrives after its repeat was answered leases again
 */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef CLAIMS
#define CLAIMS 1                        /* attempts of each worker to work on the posting */
#endif
#define NOBODY 0

mtype = { ACQUIRE, RELEASE, REMOVE };
mtype = { OK, HELD, GONE, REFUSED, UNKNOWN };

/* -- the store --------------------------------------------------------------------------------- */

bool present = true;
byte token = 0;                         /* of the last lease; rises with each */
bool leased = false;
byte by = NOBODY;                       /* the claim id of the lease that stands */
byte removed_with = 0;                  /* the token with which the posting was removed */
bool ended[WORKERS * CLAIMS + 1];       /* claim ids whose lease was released, remembered */

/* -- what the workers know --------------------------------------------------------------------- */

bool believes[WORKERS * CLAIMS + 1];    /* the holder by this claim id has reason to go on */
bool known[WORKERS * CLAIMS + 1];       /* the board has registered the answer */
bool in_doubt[WORKERS * CLAIMS + 1];    /* an attempt was not answered, and was reported */
bool frozen[WORKERS + 1];               /* the process stands still: it can learn nothing */
bool gave_up[WORKERS * CLAIMS + 1];     /* the caller received an unknown outcome */
byte token_of[WORKERS * CLAIMS + 1];

byte works = 0;                         /* jobs that were acknowledged as done */
byte working = 0;                       /* workers at the end of their work */

#define HOLDER(claim) (((claim) + CLAIMS - 1) / CLAIMS)

#ifndef LATE
#define LATE 2
#endif
/* Requests that are on their way for longer than their caller waits. */
chan late = [LATE] of { mtype, byte, byte };

/* One indivisible step. The answer is in `answer`, the token of a lease in `got`. */
inline apply(verb, claim, proof, answer, got) {
    if
    :: verb == ACQUIRE ->
        if
        :: !present -> answer = GONE
        :: present && leased && by == claim ->
#ifdef NO_CLAIM_ID
            assert(false);              /* held by oneself, and reported as another's */
            answer = HELD
#else
            answer = OK; got = token
#endif
        :: present && leased && by != claim -> answer = HELD
        :: present && !leased ->
#ifndef NO_CLAIM_FENCE
            if
            :: ended[claim] -> answer = HELD
            :: else ->
#else
            assert(!ended[claim]);      /* what was given back is leased again, by nobody */
#endif
                token++; leased = true; by = claim; answer = OK; got = token;
                /* No holder but a frozen one may still believe in its lease. */
                other = 1;
                do
                :: other <= WORKERS * CLAIMS ->
                    assert(!(believes[other] && other != claim && !frozen[HOLDER(other)]));
                    other++
                :: else -> break
                od;
                other = 0
#ifndef NO_CLAIM_FENCE
            fi
#endif
        fi
    :: verb == RELEASE ->
#ifdef NO_FENCE
        if
        :: present && leased -> assert(proof == token); leased = false; by = NOBODY; answer = OK
#else
        if
        :: present && leased && proof == token ->
            leased = false; ended[by] = true; by = NOBODY; answer = OK
#endif
        :: else -> answer = REFUSED
        fi
    :: verb == REMOVE ->
#ifdef NO_FENCE
        if
        :: present && leased ->
            assert(proof == token);     /* the successor's job was consumed */
#else
        if
        :: present && leased && proof == token ->
#endif
            present = false; leased = false; by = NOBODY; removed_with = proof; answer = OK
#ifdef NO_TOMBSTONE
        :: !present && removed_with == proof -> assert(false); answer = GONE
#else
        :: !present && removed_with == proof -> answer = OK
#endif
        :: else -> answer = REFUSED
        fi
    fi
}

/* One attempt over a network that may lose the request, or the reply, or deliver much later. */
inline attempt(verb, claim, proof, answer, got) {
    atomic {
        if
        :: apply(verb, claim, proof, answer, got)
        :: apply(verb, claim, proof, answer, got); answer = UNKNOWN
        :: answer = UNKNOWN
        :: nfull(late) -> late ! verb, claim, proof; answer = UNKNOWN
        fi
    }
}

proctype Worker(byte me) {
    byte n = 0, claim = 0, got = 0, other = 0, tries = 0;
    mtype answer;
    do
    :: n < CLAIMS ->
        n++; claim = (me - 1) * CLAIMS + n; tries = 0;
        /* acquire, repeated as a whole with the same claim id */
        do
        :: tries < 2 ->
            tries++;
            attempt(ACQUIRE, claim, 0, answer, got);
            if
            :: answer == UNKNOWN -> in_doubt[claim] = true
            :: else -> break
            fi
        :: else -> break
        od;
        if
        :: answer == OK ->
#ifdef NO_REGISTER
            token_of[claim] = got; believes[claim] = true;
            skip;                       /* the keeper may look in between */
            known[claim] = true
#else
            d_step { token_of[claim] = got; believes[claim] = (leased && by == claim); known[claim] = true }
#endif
        :: answer == UNKNOWN -> gave_up[claim] = true
        :: else -> skip
        fi;
        if
        :: known[claim] ->
            /* work; then finish, or hand back, unless the lease was reported lost */
            tries = 0;
            if
            :: /* consume */
                believes[claim] = false;
                do
                :: tries < 2 ->
                    tries++;
                    attempt(REMOVE, claim, token_of[claim], answer, got);
                    if
                    :: answer != UNKNOWN -> break
                    :: else -> skip
                    fi
                :: else -> break
                od;
                atomic {
                    if
                    :: answer == OK -> works++; assert(works <= 1)
                    :: else -> skip
                    fi
                }
            :: /* abandon */
                believes[claim] = false;
                attempt(RELEASE, claim, token_of[claim], answer, got)
            :: /* freeze for as long as it takes, then go on as if nothing had happened */
                frozen[me] = true;
                skip;
                attempt(REMOVE, claim, token_of[claim], answer, got);
                atomic {
                    if
                    :: answer == OK -> works++; assert(works <= 1)
                    :: else -> skip
                    fi;
                    believes[claim] = false;
                    frozen[me] = false
                }
            fi;
            believes[claim] = false;
            known[claim] = false;
            gave_up[claim] = true       /* the keeper gives back what this did not end */
        :: else -> skip
        fi
    :: else -> break
    od
}

/* The keeper of every board: gives back what nobody knows of, and stops believing in time. */
proctype Keeper() {
    byte claim, other = 0, got = 0;
    mtype answer;
    do
#ifndef NO_GIVE_BACK
    :: atomic {
        leased && (in_doubt[by] || gave_up[by]) && !known[by] ->
            claim = by;
            /* A claim that was handed out is not given back behind its holder's back. */
            assert(!(believes[claim]));
            apply(RELEASE, claim, token, answer, got)
       }
#endif
    :: atomic {
        leased && believes[by] && !frozen[HOLDER(by)] ->
            believes[by] = false        /* the deadline passed, LEASE_LOST is reported */
       }
    :: timeout -> break
    od;
    /* Nothing is on its way any more: nobody holds what nobody knows of. */
    assert(!leased || known[by])
}

/* The store ends a lease whose time is over: its holder died, froze, or was cut off. */
proctype Clock() {
    do
#ifdef NO_DEADLINE
    :: atomic { leased && by != NOBODY -> ended[by] = true; leased = false; by = NOBODY }
#else
    :: atomic {
        leased && by != NOBODY && (!believes[by] || frozen[HOLDER(by)]) && known[by] ->
            ended[by] = true; leased = false; by = NOBODY
       }
#endif
    :: timeout -> break
    od
}

proctype Network() {
    mtype verb, answer;
    byte claim, proof, other = 0, got = 0;
    do
    :: atomic { late ? verb, claim, proof -> apply(verb, claim, proof, answer, got) }
    :: timeout -> break
    od
}

init {
    byte w = 1;
    atomic {
        do
        :: w <= WORKERS -> run Worker(w); w++
        :: else -> break
        od;
        run Keeper(); run Clock(); run Network()
    }
}
