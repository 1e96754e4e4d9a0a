package limit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

// inRedis counts in Redis, so that all processes agree and none forgets.
type inRedis struct {
	client *redis.Client
	log    *slog.Logger
	// meanwhile counts while Redis is away.
	meanwhile *memory
	// away is when Redis is to be asked again, in Unix nanoseconds; 0 while it answers.
	away atomic.Int64
}

const (
	// answerWithin is far above what Redis takes, and what a call can spare.
	answerWithin = 250 * time.Millisecond
	// askAgain keeps calls from waiting for a Redis that is away, one by one.
	askAgain = 2 * time.Second
)

// NewRedis counts in the Redis at a URL ("redis://...", "rediss://...", "unix://..."). It need not answer
// yet. Close it at the end.
func NewRedis(rates Rates, url string, log *slog.Logger) (*Limiter, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("limit: the URL of Redis is not valid") // it may hold a password
	}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = answerWithin, answerWithin, answerWithin
	options.MaxRetries, options.DialerRetries = -1, 1 // none: what follows a failure is decided here
	options.ContextTimeoutEnabled = true
	redis.SetLogger(&logging.VoidLogger{}) // it would write to stderr what is logged here in other words
	return &Limiter{rates: rates, store: &inRedis{client: redis.NewClient(options), log: log, meanwhile: newMemory()}}, nil
}

// Close ends the connections to Redis, if there are any.
func (l *Limiter) Close() error {
	if r, ok := l.store.(*inRedis); ok {
		return r.client.Close()
	}
	return nil
}

// takeScript is memory.take for Redis: for each key a hash of slot -> count. Its clock is that of Redis, which all share.
// It gives the fullest key's used and oldest slot, and the time in milliseconds.
var takeScript = redis.NewScript(`
local slot_for, slots, rate, look = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == "1"
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local slot = math.floor(now / slot_for)
local used, oldest = -1, slot
for _, key in ipairs(KEYS) do
	local counts = redis.call("HGETALL", key)
	local sum, first = 0, slot
	for i = 1, #counts, 2 do
		local at = tonumber(counts[i])
		if at <= slot - slots then
			redis.call("HDEL", key, counts[i])
		else
			sum = sum + tonumber(counts[i + 1])
			first = math.min(first, at)
		end
	end
	if sum > used then
		used, oldest = sum, first
	end
end
if not look and used < rate then
	for _, key in ipairs(KEYS) do
		redis.call("HINCRBY", key, slot, 1)
		redis.call("PEXPIRE", key, slot_for * slots)
	end
end
return {used, oldest, now}
`)

func (r *inRedis) take(ctx context.Context, now time.Time, rate int, look bool, keys []string) window {
	if until := r.away.Load(); until != 0 && now.UnixNano() < until {
		return r.meanwhile.take(ctx, now, rate, look, keys)
	}
	w, err := r.ask(ctx, rate, look, keys)
	if err != nil {
		if r.away.Swap(now.Add(askAgain).UnixNano()) == 0 {
			r.log.WarnContext(ctx, "Redis does not answer; each process counts its limits alone until it does", "err", err)
		}
		return r.meanwhile.take(ctx, now, rate, look, keys)
	}
	if r.away.Swap(0) != 0 {
		r.log.InfoContext(ctx, "Redis answers again; limits hold over all processes")
	}
	return w
}

func (r *inRedis) ask(ctx context.Context, rate int, look bool, keys []string) (window, error) {
	// A caller who goes away must not look like a Redis that is away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
	defer cancel()
	named := make([]string, len(keys))
	for i, key := range keys {
		// Hashed, since keys hold addresses of people; in one slot of a cluster, since a script needs them together.
		sum := sha256.Sum256([]byte(key))
		named[i] = "chom:{limit}:" + hex.EncodeToString(sum[:16])
	}
	peek := "0"
	if look {
		peek = "1"
	}
	got, err := takeScript.Run(ctx, r.client, named, slotFor.Milliseconds(), slots, rate, peek).Int64Slice()
	if err != nil {
		return window{}, err
	}
	if len(got) != 3 {
		return window{}, fmt.Errorf("the script gave %d numbers", len(got))
	}
	w := window{used: int(got[0])}
	if w.used > 0 || !look {
		w.free = leaves(got[1], time.UnixMilli(got[2]))
	}
	return w, nil
}
