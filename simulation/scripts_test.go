package simulation

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
)

// TestScriptsRunAsInTheImitation gives each script also to an imitation with its own interpreter.
// All answers and all keys must be the same, whatever others have written to the keys.
func TestScriptsRunAsInTheImitation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 1))
		ours, theirs := openImitation(t), openImitation(t)
		kept := newScripts(ours.Server())
		scripts, refused := map[string]int{}, 0
		ours.Server().SetPreHook(func(client *server.Peer, command string, args ...string) bool {
			if !strings.HasPrefix(command, "EVAL") {
				return false
			}
			answer := answerOf(func(p *server.Peer) {
				if !kept.run(p, command, args...) {
					p.WriteError("NOSCRIPT No matching script. Please use EVAL.")
				}
			})
			other := answerOf(func(p *server.Peer) { theirs.Server().Dispatch(p, append([]string{command}, args...)) })
			refuse := strings.Contains(answer, "WRONGTYPE") // then the texts differ
			if answer != other && (!refuse || !strings.Contains(other, "WRONGTYPE")) {
				t.Errorf("%s %q: the kept interpreter answers %q, the imitation %q", command, args, answer, other)
			}
			if refuse {
				refused++
			}
			scripts[args[0]]++
			client.WriteRaw(answer)
			return true
		})
		store := coordination.New(coordination.Config{
			Client: redis.NewClient(&redis.Options{
				Addr: "127.0.0.1:6379", Dialer: func(context.Context, string, string) (net.Conn, error) { return ours.Dial() },
				MaxRetries: -1, DisableIdentity: true,
			}),
			Scope: []string{"test"}, Timeout: time.Second, LeaseFor: 30 * time.Second, Remember: time.Hour, SkewMargin: margin,
			Observe: func(coordination.Observation) {}, Changed: func(error) {},
		})
		defer store.Close()
		limiter := store.NewLimiter("app", 10)
		leases := map[string]*coordination.Lease{}
		for range 3000 {
			user := fmt.Sprintf("user%d", r.IntN(5))
			switch r.IntN(8) {
			case 0:
				if lease, _, taken := store.Lease(t.Context(), user, nil); !taken {
					leases[user] = lease
				}
			case 1, 2:
				began := time.Now().Add(-time.Duration(r.IntN(20)) * time.Second)
				verdict := dedupe.Verdict{Start: began, Entity: queue, Sequence: r.Int64N(100)}
				if r.IntN(2) == 0 {
					verdict.Covers = began.Add(-margin)
				}
				leases[user].End(t.Context(), pick(r, verdict, dedupe.Verdict{}))
				delete(leases, user)
			case 3:
				store.MayAsk(t.Context(), "something", 5*time.Second)
			case 4:
				store.Reserve(t.Context(), "kind", user, pick(r, 0, 3, 10), time.Minute)
			case 5:
				store.Refund(t.Context(), "kind", user)
			case 6:
				limiter.Want(r.IntN(3), r.IntN(2))
				limiter.Try(t.Context())
			case 7:
				writeBoth(t, r, ours, theirs)
			}
			if a, b := ours.Dump(), theirs.Dump(); a != b {
				t.Fatalf("the kept interpreter left\n%s\nand the imitation\n%s", a, b)
			}
			time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
		}
		if few := 7; len(scripts) < 2*few || refused == 0 { // each by its text, and then by its hash
			t.Errorf("%d scripts ran, need %d; %d were refused because of a value's type", len(scripts)/2, few, refused)
		}
	})
}

func openImitation(t *testing.T) *miniredis.Miniredis {
	imitation := miniredis.NewMiniRedis()
	imitation.ClockTTL(true)
	conn, err := imitation.Dial()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	t.Cleanup(imitation.Close)
	return imitation
}

func answerOf(run func(*server.Peer)) string {
	var written bytes.Buffer
	client := server.NewPeer(bufio.NewWriter(&written))
	run(client)
	client.Flush()
	return written.String()
}

// writeBoth writes to a key that scripts use, or lets it live forever.
func writeBoth(t *testing.T, r *rand.Rand, imitations ...*miniredis.Miniredis) {
	keys := imitations[0].Keys()
	if len(keys) == 0 {
		return
	}
	slices.Sort(keys)
	key, what, text := keys[r.IntN(len(keys))], r.IntN(4), pick(r, "", "soon", "1e400", "-1", strings.Repeat("x", 70_000))
	for _, imitation := range imitations {
		var err error
		switch what {
		case 0:
			imitation.Del(key)
			err = imitation.Set(key, text)
		case 1:
			imitation.Del(key)
			imitation.HSet(key, "start", text, "covers", "1", "entity", text, "sequence", "1")
		case 2:
			imitation.SetTTL(key, 0)
		case 3:
			imitation.SetTTL(key, 100*time.Hour)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
