package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

// oddFiles: pipes, sockets, endless files, closed directories and names that
// are no text, in every place that a plugin or nginx looks at. Each order ends
// soon, and says why where it failed.
func oddFiles(t *testing.T, r *attackRange) {
	unharmed := r.guard(t)
	static, wp := r.site(t, "static"), r.site(t, "wordpress")
	odd := func(path string) []string {
		return []string{
			"mkfifo " + path,
			"perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0); bind(S,sockaddr_un(\"" + path + "\")) or die'",
			"mkdir -p " + path + "/x/y",
			"truncate -s 1T " + path,
			"ln -s " + path + " " + path, // to itself
			"touch " + path + " && chmod 000 " + path,
		}
	}
	update := func(s *sitev1.Site, place, make string) {
		t.Helper()
		must(t, r.host, s, "chmod -R u+rwX "+place+" 2>/dev/null; rm -rf "+place+" && "+make)
		if o := r.walk(t, s, "update")[0]; o.took > 3*time.Minute { // five tries of a PHP that waits for a pipe, and a home page that does not answer
			t.Errorf("%s keeps an update busy for %s", make, o.took)
		}
	}
	config := public(wp) + "/wp-config.php"
	must(t, r.host, wp, "cp "+config+" "+private(wp)+"/kept")
	for _, c := range []struct {
		site  *sitev1.Site
		place string
		brief []int // the kinds of the short form: each comes once, and those that cost a minute do not
	}{
		{static, public(static) + "/index.html", []int{0, 1, 2, 4}},
		{static, private(static) + "/.chom-lock", []int{3}},
		{wp, config, []int{4}},
		{wp, public(wp) + "/wp-content/mu-plugins/chom.php", []int{5}},
		{wp, private(wp) + "/.chom-file", nil},
	} {
		for i, make := range odd(c.place) {
			if prove || slices.Contains(c.brief, i) {
				update(c.site, c.place, make)
			}
		}
		must(t, r.host, c.site, "chmod -R u+rwX "+c.place+" 2>/dev/null; rm -rf "+c.place+"; [ "+c.place+" != "+config+" ] || cp "+private(wp)+"/kept "+config)
	}
	wentWell(t, r.walk(t, static, "suspend"))
	// Names that are no text, and directories that shut their owner out.
	must(t, r.host, wp, "cd "+public(wp)+` && mkdir -p $'\xff\xfe\n/-rf' -- '--help' '$(id)' ' ' && touch -- -rf '*' $'a\nb' && chmod 000 $'\xff\xfe\n' '--help' && mkdir -p shut/in && touch shut/in/f && chmod 0 shut/in && chmod 0 shut`)
	wentWell(t, r.walk(t, wp, "update"))
	unharmed(t)
	r.retire(t, static)
	r.retire(t, wp)
}

// setuidAndModes is F22. Without nosuid and the closed shell, a tenant could
// lend his rights to a neighbour and take devices from root's hand.
func setuidAndModes(t *testing.T, r *attackRange) {
	a, v := r.attacker(t), r.victim(t)
	if got := sh(t, r.host, "findmnt --noheadings --output=OPTIONS --target "+public(a)); !strings.Contains(got, "nosuid") || !strings.Contains(got, "nodev") {
		t.Errorf("/srv/chom is mounted %s", got)
	}
	// Who runs it keeps his own user, even where the file can be reached.
	must(t, r.host, a, "cp /usr/bin/id "+public(a)+"/setuid && chmod 6755 "+public(a)+"/setuid")
	res, err := r.Run(timeout(t, 10*time.Second), lab.Command{User: "www-data", Argv: []string{public(a) + "/setuid", "--user", "--name"}})
	if err != nil || res.Code != 0 || strings.TrimSpace(res.Stdout) != "www-data" {
		t.Errorf("a setuid program makes its caller %q: %v %s", res.Stdout, err, res.Stderr)
	}
	sh(t, r.host, "cp -p "+public(a)+"/setuid /var/tmp/setuid && chown --reference="+public(a)+"/setuid /var/tmp/setuid && chmod 6755 /var/tmp/setuid")
	if res, err = r.Run(timeout(t, 10*time.Second), lab.Command{User: "www-data", Argv: []string{"/var/tmp/setuid", "--user", "--name"}}); err != nil || strings.TrimSpace(res.Stdout) != "s-"+a.GetHandle() {
		t.Errorf("elsewhere a setuid program does not work either (%q, %v): the test proves nothing", res.Stdout, err)
	}
	sh(t, r.host, "rm /var/tmp/setuid")
	// PHP can't even make one, nor a device.
	got := php(t, r.host, a, `error_reporting(0);
		file_put_contents(__DIR__ . '/s', 'x'); clearstatcache();
		echo chmod(__DIR__ . '/s', 04755) ? 'setuid ' : '', chmod(__DIR__ . '/s', 02755) ? 'setgid ' : '', posix_mknod(__DIR__ . '/null', POSIX_S_IFCHR | 0666, 1, 3) ? 'device ' : '', posix_setuid(0) ? 'root ' : '', 'end';`)
	if got != "end" {
		t.Errorf("PHP can: %s", got)
	}
	for _, node := range []string{"c 1 3", "b 7 0"} {
		if res := as(t, r.host, a, "mknod "+public(a)+"/node "+node); res.Code == 0 {
			t.Errorf("a device %s was made", node)
		}
	}
	sh(t, r.host, "mknod -m 666 "+public(a)+"/null c 1 3") // as a restored backup might
	if res := as(t, r.host, a, "cat "+public(a)+"/null"); res.Code == 0 {
		t.Error("a device in a site's tree can be opened")
	}
	sh(t, r.host, "rm "+public(a)+"/null")
	// An open door behind a closed one.
	must(t, r.host, v, "mkdir -p "+public(v)+"/open && chmod 777 "+public(v)+"/open && echo x > "+public(v)+"/open/f && chmod 666 "+public(v)+"/open/f")
	for _, line := range []string{"cat " + public(v) + "/open/f", "ls " + public(v) + "/open", "touch " + public(v) + "/open/g", "ls /srv/chom/sites", "cd /srv/chom/sites/" + v.GetHandle()} {
		if res := as(t, r.host, a, line); res.Code == 0 {
			t.Errorf("a neighbour can: %s: %s", line, res.Stdout)
		}
	}
	// What PHP makes is closed to others from the first moment.
	php(t, r.host, a, `mkdir(__DIR__ . '/made'); file_put_contents(__DIR__ . '/made/f', 'x');`)
	if got := sh(t, r.host, "stat -c '%a %U:%G' "+public(a)+"/made "+public(a)+"/made/f"); got != strings.ReplaceAll("750 U:U\n640 U:U", "U", "s-"+a.GetHandle()) {
		t.Errorf("PHP makes things of mode\n%s", got)
	}
	if got := sh(t, r.host, "find /srv/chom/sites/"+a.GetHandle()+" -not -type l -perm /007 -not -name setuid -not -path '*/open*'"); got != "" {
		t.Errorf("open to everybody after an installation:\n%.2000s", got)
	}
	for _, s := range []string{a.GetHandle(), v.GetHandle()} {
		if got := sh(t, r.host, "stat -c '%a %U' /srv/chom/sites/"+s); got != "710 root" {
			t.Errorf("a site's shell is %s", got)
		}
	}
	must(t, r.host, v, "rm -r "+public(v)+"/open")
	must(t, r.host, a, "rm -r "+public(a)+"/made "+public(a)+"/setuid "+public(a)+"/s")
}

// writablePlaces: whatever a program of root's reads (nginx, php-fpm, systemd,
// cron, logrotate) must not be a tenant's to write. So all is looked at.
func writablePlaces(t *testing.T, r *attackRange) {
	s := r.attacker(t)
	own := []string{"/srv/chom/sites/" + s.GetHandle(), "/run/chom-php/" + s.GetHandle()}
	outside := func(list string) (found []string) {
		for p := range strings.Lines(list) {
			p = strings.TrimSpace(p)
			if p == "" || slices.ContainsFunc(own, func(o string) bool { return p == o || strings.HasPrefix(p, o+"/") }) {
				continue
			}
			found = append(found, p)
		}
		return found
	}
	find := `find / ` + public(s) + ` ` + private(s) + ` -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -path ` + canaries + ` -prune -o \( -type f -o -type d \) -writable -print 2>/dev/null; true`
	open := []string{"/tmp", "/tmp/.X11-unix", "/tmp/.ICE-unix", "/tmp/.XIM-unix", "/tmp/.font-unix", "/var/tmp", "/var/lib/php/sessions", "/run/lock"} // sticky, every user's on any Debian
	list := must(t, r.host, s, find)
	if !strings.Contains(list, public(s)) {
		t.Fatal("not even the own tree is writable: the test proves nothing")
	}
	for _, p := range outside(list) {
		if !slices.Contains(open, p) && !strings.HasPrefix(p, "/tmp/") {
			t.Errorf("the plain user can write to %s", p)
		}
	}
	list = php(t, r.host, s, "echo shell_exec('"+strings.ReplaceAll(strings.ReplaceAll(find, `\`, `\\`), "'", `\'`)+"');")
	if !strings.Contains(list, public(s)) {
		t.Fatal("PHP can't even write to its own tree: the test proves nothing")
	}
	for _, p := range outside(list) {
		if p != "/tmp" && p != "/var/tmp" && !strings.HasPrefix(p, "/tmp/") { // private ones
			t.Errorf("PHP can write to %s", p)
		}
	}
}

// logsAndRotation is F18. Were the logs in a directory of the tenant's, he
// would choose what nginx, as root, opens for writing and logrotate gives away.
func logsAndRotation(t *testing.T, r *attackRange) {
	s := r.attacker(t)
	unharmed := r.guard(t)
	logs := "/var/log/chom/sites/" + s.GetHandle()
	for _, line := range []string{"ls " + logs, "cat " + logs + "/access.log", "rm -f " + logs + "/access.log && ln -s " + openFile + " " + logs + "/access.log", "mv " + logs + " /tmp/", "ln -sfn " + openDir + " " + logs, "echo x >> " + logs + "/error.log", "touch " + logs + "/x.log"} {
		if res := as(t, r.host, s, line); res.Code == 0 && !strings.HasPrefix(line, "rm -f") {
			t.Errorf("a tenant can: %s", line)
		}
	}
	modes := func() string {
		return sh(t, r.host, "stat -c '%n %F %a %U' /var/log/chom /var/log/chom/sites "+logs+" "+logs+"/access.log "+logs+"/error.log")
	}
	want := modes()
	for line := range strings.Lines(want) {
		f := strings.Fields(line)
		if mode := f[len(f)-2]; f[len(f)-1] != "root" || strings.ContainsAny(mode[len(mode)-2:], "2367") || strings.Contains(line, "link") {
			t.Errorf("logs: %s", line)
		}
	}
	ask := func(mark string) {
		if _, err := visit(t, r.host, s.GetDomains()[0], "/?"+mark); err != nil {
			t.Fatal(err)
		}
	}
	ask("before-rotation")
	inode := sh(t, r.host, "stat -c %i "+logs+"/access.log")
	sh(t, r.host, "logrotate --force /etc/logrotate.d/chom-sites")
	for range 100 { // nginx opens the new files when it has reloaded
		ask("after-rotation")
		if strings.Contains(sh(t, r.host, "cat "+logs+"/access.log"), "after-rotation") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got := sh(t, r.host, "cat "+logs+"/access.log"); !strings.Contains(got, "after-rotation") || strings.Contains(got, "before-rotation") {
		t.Errorf("after the rotation the log holds:\n%s", got)
	}
	if got := sh(t, r.host, "cat "+logs+"/access.log.1"); !strings.Contains(got, "before-rotation") {
		t.Errorf("the rotated log holds:\n%s", got)
	}
	if now := sh(t, r.host, "stat -c %i "+logs+"/access.log"); now == inode {
		t.Error("the log was not rotated")
	}
	for line := range strings.Lines(modes()) {
		if f := strings.Fields(line); f[len(f)-1] != "root" {
			t.Errorf("after the rotation: %s", line)
		}
	}
	shows(t, r.host, s, http.StatusOK, "")
	unharmed(t)
}

// busyDeletion is F20: a tenant who does all he can to stay. Without ending
// processes first, files appear behind the back of whoever removes them;
// without handing the removal to his own user, root walks his traps.
func busyDeletion(t *testing.T, r *attackRange) {
	s := r.site(t, "wordpress")
	unharmed := r.guard(t)
	files := 10_000
	must(t, r.host, s, fmt.Sprintf(`cd %s && mkdir many && (cd many && seq %d | xargs touch) && mkdir -p shut/in && touch shut/in/f && chmod 0 shut/in shut &&
		perl -e 'for (1 .. 3000) { mkdir "deep-dir" or die; chdir "deep-dir" or die } open F, ">", "f"' &&
		mkdir -p $'\xff\n' -- '-rf' && ln -s / root && ln -s %s other && ln -s %s cron && mkfifo pipe && ln -s loop loop && chmod 1777 many`, public(s), files, public(r.neighbour(t)), cronDir))
	must(t, r.host, s, fmt.Sprintf(`cd %s && mkdir -p a/b/c && touch a/b/c/f && chmod 0 a/b && chmod 0 sessions`, private(s)))
	// In the slice, by PHP: a writer in a loop, one that holds the directory,
	// one that starts itself again, and a request that is still answered.
	php(t, r.host, s, `
		exec('setsid sh -c "cd `+public(s)+`; while :; do mkdir -p w/\$\$; echo x > w/\$\$/f; echo x > n\$\$; done" >/dev/null 2>&1 &');
		exec('cd `+public(s)+`/many && setsid sleep 1000 >/dev/null 2>&1 &');
		exec('setsid perl -e "chdir q{`+private(s)+`}; \$SIG{TERM} = \$SIG{HUP} = q{IGNORE}; while (1) { fork and exit; mkdir qq{p\$\$}; select undef, undef, undef, 0.01 }" >/dev/null 2>&1 &');`)
	plant(t, r.host, s, public(s)+"/slow.php", `<?php ignore_user_abort(true); while (true) { touch(__DIR__ . '/slow' . mt_rand()); usleep(1000); }`)
	go func() { _, _ = rig.Visit(t.Context(), r.Host, s.GetDomains()[0], "/slow.php") }() // it ends with the site
	// And outside of the slice, as a login of the tenant's would be.
	must(t, r.host, s, "cd "+public(s)+" && (setsid bash -c 'while :; do : "+stays+"; mkdir -p outside/$RANDOM; echo x > outside/$RANDOM/f; sleep 0.01; done' >/dev/null 2>&1 </dev/null &)")
	running := func() string { return sh(t, r.host, "pgrep --uid s-"+s.GetHandle()+" --list-full || true") }
	if n := strings.Count(running(), "\n"); n < 5 {
		t.Fatalf("the tenant's processes do not run:\n%s", running())
	}
	for _, what := range []string{"suspend", "delete"} {
		o := r.order(t, s, what)
		if o.state != taskv1.State_STATE_SUCCEEDED {
			t.Errorf("%s: %s %s", what, o.state, o.err)
		}
		if left := running(); left != "" {
			t.Errorf("after %s there run:\n%s", what, left)
		}
	}
	// He comes back while the site is in the trash.
	must(t, r.host, s, "cd "+public(s)+" && (setsid bash -c 'while :; do : "+stays+"; mkdir -p outside/$RANDOM; sleep 0.01; done' >/dev/null 2>&1 </dev/null &)")
	unharmed(t) // and again when all are removed
}
