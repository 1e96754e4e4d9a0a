package e2e

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// passDeadlines has tasks run out of time: under the hands of an agent, and
// while the agent says nothing at all.
func passDeadlines(t *testing.T, w *shared, h *host, _ *rubbish) {
	const within = 2 * time.Second
	late := func(why string, most time.Duration, meanwhile func()) *taskv1.Task {
		t.Helper()
		began := time.Now()
		res, err := w.rig.Servers.PingServer(timeout(t, backWithin), &fleetv1.PingServerRequest{
			ServerId: h.server.GetId(), Steps: 100, StepDuration: durationpb.New(time.Second), Timeout: durationpb.New(within),
		})
		if err != nil {
			t.Fatal(err)
		}
		task := w.ended(t, res.GetTask(), within+most)
		took := time.Since(began)
		meanwhile()
		if task.GetState() != taskv1.State_STATE_TIMED_OUT || !strings.Contains(task.GetError(), why) || took < within {
			t.Errorf("after %s the task ended %s: %q", took, task.GetState(), task.GetError())
		}
		t.Logf("%s after its deadline: %q", (took - within).Round(10*time.Millisecond), task.GetError())
		return task
	}
	late("took longer than allowed", 10*time.Second, func() {})
	w.ping(t, h, 5*time.Second)

	sh(t, h, "systemctl kill --signal=STOP --kill-whom=main chom-agent")
	thaw := func() { sh(t, h, "systemctl kill --signal=CONT --kill-whom=main chom-agent") }
	defer thaw()
	// Seconds, but a chomd that has just started first hears of its agents.
	silent := late("its agent was not heard of before its deadline", 100*time.Second, thaw)
	w.ping(t, h, backWithin) // the agent has met the order by then
	got, err := w.rig.Tasks.GetTask(timeout(t, backWithin), &taskv1.GetTaskRequest{OrganizationId: silent.GetOrganizationId(), TaskId: silent.GetId()})
	if err != nil || got.GetTask().GetState() != taskv1.State_STATE_TIMED_OUT {
		t.Errorf("once its agent was back the task was %v, %v", got.GetTask(), err)
	}
}

// appoint gives a site of WordPress something to do by its own schedule, and
// returns what looks, at the end of other work, whether the timer has fired by
// itself and WordPress has done it.
func appoint(t *testing.T, w *shared, h *host, waste *rubbish) (kept func(t *testing.T)) {
	t.Helper()
	s, _ := w.create(t, h, "wordpress")
	res := as(t, h, s, strings.ReplaceAll(`set -e
cd /srv/chom/sites/HANDLE/public
cat > wp-content/mu-plugins/appointment.php <<'PHP'
<?php add_action( 'appointment', function () { update_option( 'appointment', php_sapi_name() . ' ' . time() ); } );
PHP
php -r 'require "wp-load.php"; wp_schedule_single_event( time() - 1, "appointment" ) || exit( 1 );'`, "HANDLE", s.GetHandle()))
	if res.Code != 0 {
		t.Fatalf("the appointment is not made: %s%s", res.Stdout, res.Stderr)
	}
	did := func(t *testing.T) string {
		return sh(t, h, "mariadb --batch --skip-column-names s"+s.GetHandle()+` -e "SELECT option_value FROM wp_options WHERE option_name = 'appointment'"`)
	}
	if early := did(t); early != "" && lastCron(t, h, s) == "" {
		t.Errorf("before the timer fired WordPress did %q", early)
	}
	return func(t *testing.T) {
		shows(t, h, s, 200, s.GetSettings()["title"])
		began := time.Now()
		for did(t) == "" {
			if time.Since(began) > 3*time.Minute { // a minute, and up to 55 s of spread
				t.Fatalf("the timer of WordPress fired at %q, and WordPress did nothing", lastCron(t, h, s))
			}
			time.Sleep(time.Second)
		}
		if fired := lastCron(t, h, s); fired == "" || !strings.HasPrefix(did(t), "cli ") {
			t.Errorf("WordPress did %q; its timer fired at %q", did(t), fired)
		}
		t.Logf("WordPress did %q, its timer fired at %q", did(t), lastCron(t, h, s))
		waste.bin(t, w.settled(t, h, s, converges))
	}
}
