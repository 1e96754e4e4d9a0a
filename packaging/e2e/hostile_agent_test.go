package e2e

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// exposure is what systemd-analyze says of the agent's unit, the less the
// better. Lower it when it falls; whoever raises it has to say why.
const exposure = 3.0

// agentSurface is F23: what a tenant or a stranger could lay hands on.
func agentSurface(t *testing.T, r *attackRange) {
	a := r.attacker(t)
	pid := sh(t, r.host, "systemctl show --property=MainPID --value chom-agent.service")
	if got := sh(t, r.host, "ss --no-header --listening --processes --tcp --udp --raw --unix --packet | grep 'pid="+pid+",' || true"); got != "" {
		t.Errorf("the agent listens:\n%s", got)
	}
	if got := sh(t, r.host, "ss --no-header --listening --numeric --processes --tcp --udp | grep -v -e nginx -e sshd -e systemd || true"); got != "" {
		t.Errorf("somebody else than nginx and sshd listens:\n%s", got)
	}
	if got := sh(t, r.host, "awk '/Max core file size/ {print $5, $6}' /proc/"+pid+"/limits"); got != "0 0" {
		t.Errorf("the agent may dump core: %s", got)
	}
	// Files: nobody but root, except where a site's user has to read.
	for _, dir := range []string{"/var/lib/chom-agent", "/run/chom-agent"} {
		if got := sh(t, r.host, "find "+dir+" \\( -not -user root -o -perm /077 \\) -printf '%p %m %u\\n'"); got != "" {
			t.Errorf("open to others:\n%s", got)
		}
	}
	if got := sh(t, r.host, "find /etc/chom-agent /usr/lib/chom /usr/bin/chom-agent /lib/systemd/system/chom-agent.service /etc/nginx/chom /etc/systemd/system /var/cache/chom-agent /var/log/chom /run/chom-plugin \\( -not -user root -o -perm /022 \\) -not -type l -printf '%p %m %u\\n' 2>/dev/null || true"); got != "" {
		t.Errorf("not root's alone to write:\n%s", got)
	}
	for _, line := range []string{"cat /var/lib/chom-agent/journal.db", "ls /var/lib/chom-agent/identity", "cat /run/chom-agent/status.json", "touch /run/chom-agent/failpoint", "kill -0 " + pid, "cat /proc/" + pid + "/environ", "cat /proc/" + pid + "/mem", "chom-agent reset-identity", "systemctl stop chom-agent", "systemctl kill chom-agent", "systemd-run --uid=0 touch " + openDir + "/owned", "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StopUnit ss chom-agent.service replace"} {
		if res := as(t, r.host, a, line); res.Code == 0 {
			t.Errorf("a tenant can: %s: %.100s", line, res.Stdout)
		}
	}
	if now := sh(t, r.host, "systemctl show --property=MainPID --value chom-agent.service"); now != pid {
		t.Errorf("a tenant restarted the agent")
	}

	level := regexp.MustCompile(`Overall exposure level for chom-agent\.service: ([0-9.]+)`).FindStringSubmatch(sh(t, r.host, "systemd-analyze security --no-pager chom-agent.service"))
	if level == nil {
		t.Fatal("systemd-analyze gives no score")
	}
	if score, err := strconv.ParseFloat(level[1], 64); err != nil || score > exposure {
		t.Errorf("systemd-analyze security gives %s, it was %.1f", level[1], exposure)
	}

	// Secrets: none in any log, argument or environment. Other attacks have tried this site's home page, which has to be found well
	// again.
	for ctx := timeout(t, time.Minute); get(t, a).GetState() != sitev1.State_STATE_ACTIVE && ctx.Err() == nil; {
		time.Sleep(500 * time.Millisecond)
	}
	login, err := world.rig.Sites.CreateSiteLogin(t.Context(), &sitev1.CreateSiteLoginRequest{OrganizationId: a.GetOrganizationId(), SiteId: a.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(login.GetUrl(), "chom_login=")
	salt := sh(t, r.host, "grep -oP \"AUTH_KEY', '\\K[^']+\" "+public(a)+"/wp-config.php | head -1")
	if len(token) < 20 || len(salt) < 20 {
		t.Fatalf("no secrets to look for: %d and %d characters", len(token), len(salt))
	}
	journal := sh(t, r.host, "journalctl --no-pager --output=cat; cat /run/chom-agent/status.json; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'") + world.rig.Tail(1<<20)
	for what, secret := range map[string]string{"a login's token": token, "a site's key": salt, "the operator's token": world.rig.Token, "root's canary": r.secret} {
		if strings.Contains(journal, secret) {
			t.Errorf("%s is in a log, an argument or the environment", what)
		}
	}
	for _, pattern := range []string{`chom1\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{20,}`, `chom(pat|org|imp)_[A-Za-z0-9]{20,}`, `-----BEGIN [A-Z ]*PRIVATE KEY-----`} {
		if found := regexp.MustCompile(pattern).FindString(journal); found != "" {
			t.Errorf("a secret is in a log, an argument or the environment: %.12s...", found)
		}
	}
	r.retire(t, a) // nobody needs them any more
	r.retire(t, r.victim(t))
}
