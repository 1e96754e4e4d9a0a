package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// shellHolds fails the test if the tenant could put something in the place of
// the directories that root made for him.
func shellHolds(t *testing.T, h *host, s *sitev1.Site) {
	t.Helper()
	shell := "/srv/chom/sites/" + s.GetHandle()
	must(t, h, s, "cd "+shell+`/public
		for do in "mv ../public ../gone" "mv ../private ../public" "rmdir ../private" "rm -rf ../private ../public/nothing/.. && ln -s `+cronDir+` ../private" "ln -s `+cronDir+` ../logs" "ln -sfn `+cronDir+` ../public" \
			"ln -s `+shadowFile+` ../x" "mkdir ../x" "touch ../x" "chmod 777 .." "chown $USER .." "mv .. ../../moved"; do
			cp -a ../private /tmp/private-$$; bash -c "$do" 2>/dev/null; [ -e ../private/.chom-lock ] || cp -a /tmp/private-$$/. ../private/; rm -rf /tmp/private-$$
		done; true`)
	user := "s-" + s.GetHandle()
	want := fmt.Sprintf("%[1]s d 710 root:%[2]s\n%[1]s/private d 700 %[2]s:%[2]s\n%[1]s/public d 750 %[2]s:%[2]s", shell, user)
	if got := sh(t, h, "find "+shell+" -maxdepth 1 -printf '%p %y %m %u:%g\\n' | sort"); got != want {
		t.Errorf("the tenant made of his shell:\n%s\nwant:\n%s", got, want)
	}
}

// link puts links in the place of files and directories, as the tenant. What
// was there goes aside.
func link(t *testing.T, h *host, s *sitev1.Site, links map[string]string) {
	t.Helper()
	var script strings.Builder
	for _, from := range slices.Sorted(maps.Keys(links)) {
		fmt.Fprintf(&script, "mkdir -p '%[1]s/aside' && { [ ! -e '%[2]s' ] || mv '%[2]s' '%[1]s/aside/'$RANDOM$RANDOM; } && mkdir -p \"$(dirname '%[2]s')\" && ln -sfn '%[3]s' '%[2]s' || exit 1\n", private(s), from, links[from])
	}
	must(t, h, s, script.String())
}

// noneServed fails the test if a visitor gets through a link to what is not
// the tenant's.
func (r *attackRange) noneServed(t *testing.T, s *sitev1.Site, paths ...string) {
	t.Helper()
	for _, path := range paths {
		p, err := visit(t, r.host, s.GetDomains()[0], path)
		if err != nil {
			continue
		}
		for _, theirs := range []string{r.secret, "root:", "# kept"} {
			if strings.Contains(p.Body, theirs) {
				t.Errorf("a visitor of %s reads through a link: %d %.100q", path, p.Status, p.Body)
			}
		}
	}
}

// linksInStatic is F01 for files alone. Without the helper's user and its
// sandbox, the agent writes a first page through these links as root.
func linksInStatic(t *testing.T, r *attackRange) {
	neighbour := r.neighbour(t)
	s := r.site(t, "static")
	unharmed := r.guard(t)
	shellHolds(t, r.host, s)
	link(t, r.host, s, map[string]string{
		public(s) + "/index.html":      openFile,
		public(s) + "/.chom-index.tmp": openFile,
		public(s) + "/.user.ini":       shadowFile,
		public(s) + "/.well-known":     public(neighbour),
		public(s) + "/logs":            cronDir,
		public(s) + "/cron":            cronDir,
		public(s) + "/secret.html":     secretFile,
		public(s) + "/theirs.html":     public(neighbour) + "/theirs.html",
		public(s) + "/theirs":          public(neighbour),
		public(s) + "/root":            "/",
	})
	paths := []string{"/", "/theirs.html", "/theirs/", "/theirs/theirs.html", "/.well-known/theirs.html", "/secret.html", "/cron/hostile-kept", "/logs/hostile-kept", "/root/etc/hostile/open", "/root" + public(neighbour) + "/theirs.html"}
	r.noneServed(t, s, paths...)
	for _, path := range []string{"/", "/root" + openFile} { // everybody may read it, but by his own hand
		if p, err := visit(t, r.host, s.GetDomains()[0], path); err == nil && strings.Contains(p.Body, "OPEN-TO-ALL") {
			t.Errorf("nginx follows a link at %s", path)
		}
	}
	if prove { // each of its tries meets the same wall
		link(t, r.host, s, map[string]string{private(s) + "/.chom-lock": openFile})
		r.walk(t, s, "update", "suspend")
		must(t, r.host, s, "rm "+private(s)+"/.chom-lock")
	}
	r.walk(t, s, everything...)
	r.noneServed(t, s, paths...)
	// A hard link would be someone else's file by every look at it.
	for _, target := range []string{shadowFile, openFile, secretFile, public(neighbour) + "/theirs.html"} {
		if res := as(t, r.host, s, "ln "+target+" "+public(s)+"/hard.html"); res.Code == 0 {
			t.Errorf("a hard link to %s was made", target)
		}
	}
	unharmed(t)
	r.retire(t, s)
}

// linksInWordPress is F01 for an application: first links that leave it
// running, so that every step meets them, then links in place of its heart.
func linksInWordPress(t *testing.T, r *attackRange) {
	neighbour := r.neighbour(t)
	s := r.site(t, "wordpress")
	unharmed := r.guard(t)
	shellHolds(t, r.host, s)
	content := public(s) + "/wp-content"
	link(t, r.host, s, map[string]string{
		content + "/uploads":                    cronDir,
		content + "/upgrade":                    openDir,
		content + "/languages":                  public(neighbour),
		content + "/debug.log":                  openFile,
		content + "/mu-plugins/chom.php":        openFile,
		public(s) + "/.user.ini":                shadowFile,
		public(s) + "/.htaccess":                shadowFile,
		public(s) + "/.well-known":              public(neighbour),
		public(s) + "/logs":                     cronDir,
		public(s) + "/theirs.html":              public(neighbour) + "/theirs.html",
		public(s) + "/theirs.php":               public(neighbour) + "/theirs.html",
		public(s) + "/secret.php":               secretFile,
		private(s) + "/.chom-file":              openFile,
		private(s) + "/sessions":                cronDir,
		private(s) + "/upload":                  openDir,
		"/run/chom-php/" + s.GetHandle() + "/x": openDir,
	})
	paths := []string{"/theirs.html", "/theirs.php", "/secret.php", "/.well-known/theirs.html", "/logs/hostile-kept", "/wp-content/uploads/hostile-kept", "/wp-content/upgrade/kept", "/"}
	r.noneServed(t, s, paths...)
	soft := r.walk(t, s, everything...)
	wentWell(t, soft)
	r.noneServed(t, s, paths...)
	unharmed(t)

	link(t, r.host, s, map[string]string{content + "/mu-plugins": openDir})
	if prove { // each of its tries meets the same wall
		r.walk(t, s, "update", "login")
		unharmed(t)
	}
	link(t, r.host, s, map[string]string{
		public(s) + "/wp-config.php":                   shadowFile,
		public(s) + "/index.php":                       secretFile,
		public(s) + "/wp-load.php":                     public(neighbour) + "/theirs.html",
		content:                                        public(neighbour),
		private(s) + "/.chom-install":                  openDir,
		private(s) + "/.chom-lock":                     openFile,
		"/run/chom-php/" + s.GetHandle() + "/php.sock": "/run/mysqld/mysqld.sock",
	})
	orders := []string{"suspend", "resume", "delete"} // each way of the host, once
	if prove {
		orders = everything
	}
	for _, o := range r.walk(t, s, orders...) {
		if o.state == 0 && o.what != "login" {
			t.Errorf("%s is refused: %s", o.what, o.err)
		}
	}
	r.noneServed(t, s, paths...)
	unharmed(t)
	r.retire(t, s)
}

// swapper exchanges directories with links, as fast as the kernel does it,
// until the stop file is there or nothing is left to exchange. It prints how
// often it did as it goes: somebody will kill it.
const swapper = `
use POSIX ();
$| = 1;
my ($stop, @pairs) = @ARGV;
my $call = (POSIX::uname())[4] eq 'aarch64' ? 276 : 316; # renameat2
my $idle = 0;
until (-e $stop) {
	my $some = 0;
	for (1 .. 200) {
		for (my $i = 0; $i < @pairs; $i += 2) {
			$some++ if syscall($call, -100, $pairs[$i], -100, $pairs[$i + 1], 2) == 0;
		}
	}
	print "$some\n";
	unless (-e "$stop.met") { open my $f, '>', "$stop.met" }
	$idle = $some ? 0 : $idle + 1;
	last if $idle > 2000;
	select(undef, undef, undef, 0.001) unless $some;
}
`

// linkRace is F02. Root never follows a name below a shell, so there is no
// window; with one, a few thousand exchanges in the midst of a step find it.
func linkRace(t *testing.T, r *attackRange) {
	enough := 100_000 // over all orders together
	each := 500
	if prove {
		enough, each = 6_000_000, 1_000_000
	}
	neighbour := r.neighbour(t)
	s := r.site(t, "wordpress")
	unharmed := r.guard(t)
	program := "/tmp/swap-" + s.GetHandle() + ".pl"
	plant(t, r.host, s, program, swapper)
	plant(t, r.host, s, public(s)+"/race.html", "mine")
	run := "/run/chom-php/" + s.GetHandle()
	// Each name changes places with a link to what is not the tenant's.
	race := map[string]string{
		public(s) + "/race.html":          public(neighbour) + "/theirs.html",
		public(s) + "/wp-content/uploads": cronDir,
		public(s) + "/wp-content/upgrade": public(neighbour),
		private(s) + "/sessions":          openDir,
		private(s) + "/upload":            cronDir,
		run + "/dir":                      openDir,
	}
	if prove { // steps that meet these are tried again, which takes its time
		race[run+"/php.sock"] = "/run/mysqld/mysqld.sock"
		race[public(s)+"/wp-content/mu-plugins"] = openDir
	}
	pairs := []string{}
	var links strings.Builder
	for i, name := range slices.Sorted(maps.Keys(race)) {
		l := name[:strings.LastIndex(name, "/")] + "/.swap" + strconv.Itoa(i)
		fmt.Fprintf(&links, "[ -e %[1]s ] || mkdir -p %[1]s 2>/dev/null; ln -sfn %[2]s %[3]s 2>/dev/null\n", name, race[name], l)
		pairs = append(pairs, name, l)
	}
	stop := "/tmp/stop-" + s.GetHandle()
	swaps := map[string]int{}
	// racing lets the tenant race while something happens. Whoever kills him
	// meets him again, as long as he is to come back.
	racing := func(t *testing.T, what string, comesBack bool, during func()) {
		as(t, r.host, s, "rm -f "+stop+" "+stop+".met")
		ended := make(chan struct{})
		raced := make(chan int)
		go func() {
			n := 0
			defer func() { raced <- n }()
			for again := true; again; again = comesBack {
				select {
				case <-ended:
					return
				default:
				}
				as(t, r.host, s, links.String())
				out := background(t, r.host, s, append([]string{"/usr/bin/perl", program, stop}, pairs...)...)
				for line := range strings.Lines(out()) {
					some, err := strconv.Atoi(strings.TrimSpace(line))
					if err != nil {
						t.Errorf("the race during %s: %s", what, line)
						return
					}
					n += some
				}
			}
		}()
		for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			if _, err := r.ReadFile(stop + ".met"); err == nil {
				break
			}
			if time.Since(begin) > 10*time.Second {
				t.Errorf("the race during %s does not begin", what)
				break
			}
		}
		during()
		close(ended)
		if comesBack {
			as(t, r.host, s, "touch "+stop)
		}
		swaps[what] += <-raced
	}
	orders := []string{"update", "suspend", "resume", "login", "delete", "restore"}
	total := func() (n int) {
		for _, c := range swaps {
			n += c
		}
		return n
	}
	lacks := func() bool {
		for _, what := range orders {
			want := each
			switch {
			case what == "suspend" || what == "delete":
				want /= 10 // they end the racer: that he comes back at all is the test's doing
			case what == "login" && !prove:
				want = 0 // over a spoilt site it may be refused at once
			}
			if swaps[what] < want {
				return true
			}
		}
		return total() < enough
	}
	deadline := time.Now().Add(25 * time.Minute)
	for lacks() {
		if time.Now().After(deadline) {
			t.Fatalf("too few exchanges: %v", swaps)
		}
		for _, what := range orders {
			racing(t, what, true, func() {
				if what == "update" {
					for range 20 { // a visitor may meet any moment too
						r.noneServed(t, s, "/race.html")
					}
				}
				begin := time.Now()
				for again := true; again; again = prove && time.Since(begin) < 10*time.Second { // the trash keeps a site for 15
					r.walk(t, s, what)
				}
			})
		}
		unharmed(t)
	}

	// The last one, while the tree itself is taken away, when its time in the
	// trash is over.
	as(t, r.host, s, "mkdir -p "+public(s)+"/deep/a/b "+public(s)+"/deep/c; touch "+public(s)+"/deep/a/b/f; ln -sfn "+openDir+" "+public(s)+"/deep/.swap")
	pairs = append(pairs, public(s)+"/deep/a", public(s)+"/deep/.swap", public(s)+"/deep/c", public(s)+"/deep/a/b")
	r.late = append(r.late, func(t *testing.T) {
		ctx := timeout(t, time.Minute)
		if trashed, err := r.found(ctx, s); err == nil {
			time.Sleep(time.Until(trashed.GetPurgeTime().AsTime()))
		}
		racing(t, "removal", false, func() {
			for {
				left, err := r.found(ctx, s)
				if connect.CodeOf(err) == connect.CodeNotFound {
					return
				}
				if ctx.Err() != nil {
					t.Errorf("the site is not removed: %s %s", left.GetState(), left.GetProblem())
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		t.Logf("%d exchanges: %v", total(), swaps)
		sh(t, r.host, "rm -f "+program+" "+stop+"*")
	})
}
