package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// nginxConfig is what nginx would load, by file; the counter of generations is
// left out.
func nginxConfig(t *testing.T, h *host) map[string]string {
	t.Helper()
	files := map[string]string{}
	for i, part := range strings.Split(sh(t, h, "nginx -T 2>/dev/null"), "# configuration file ") {
		name, text, _ := strings.Cut(part, ":\n")
		if i > 0 && !strings.HasSuffix(name, "/generation.conf") {
			files[name] = strings.TrimSpace(text)
		}
	}
	if len(files) < 3 {
		t.Fatalf("nginx shows only %d files", len(files))
	}
	return files
}

// changed names the files in which two configurations differ.
func changed(a, b map[string]string) []string {
	both := maps.Clone(a)
	maps.Copy(both, b)
	names := slices.Sorted(maps.Keys(both))
	return slices.DeleteFunc(names, func(n string) bool { return a[n] == b[n] && (a[n] != "") == (b[n] != "") })
}

// refused fails the test unless the API names the field that it refuses.
func refused(t *testing.T, err error, field, what string) {
	t.Helper()
	var shown *connect.Error
	if !errors.As(err, &shown) || shown.Code() != connect.CodeInvalidArgument {
		t.Errorf("%s with %s: %v", field, what, err)
		return
	}
	rest, named := strings.CutPrefix(shown.Message(), field)
	if !named || rest == "" || !strings.ContainsAny(rest[:1], ":[.") {
		t.Errorf("%s with %s: the error does not name the field: %v", field, what, err)
	}
}

// ask is one way to hand a string to the API.
type ask struct {
	field string
	send  func(value string) error
}

// doors are all strings of site calls. What a door hands on to nginx is only
// the name of a site; the others must not get there either.
func (r *attackRange) doors(t *testing.T) []ask {
	ctx := timeout(t, time.Minute)
	static := r.neighbour(t)
	create := func(change func(*sitev1.CreateSiteRequest, string)) func(string) error {
		return func(value string) error {
			req := newSite(r.host, "wordpress")
			change(req, value)
			res, err := world.rig.Sites.CreateSite(ctx, req)
			if err == nil {
				r.sites = append(r.sites, res.GetSite())
			}
			return err
		}
	}
	setting := func(name string) func(string) error {
		return create(func(c *sitev1.CreateSiteRequest, v string) { c.Settings[name] = v })
	}
	return []ask{
		{"name", create(func(c *sitev1.CreateSiteRequest, v string) { c.Name = v })},
		{"type", create(func(c *sitev1.CreateSiteRequest, v string) { c.Type = v })},
		{"server_id", create(func(c *sitev1.CreateSiteRequest, v string) { c.ServerId = v })},
		{"domains", create(func(c *sitev1.CreateSiteRequest, v string) { c.Domains = []string{v} })},
		{"domains", create(func(c *sitev1.CreateSiteRequest, v string) { c.Domains = append(c.Domains, v) })},
		{"domains", func(v string) error {
			_, err := world.rig.Sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{
				OrganizationId: static.GetOrganizationId(), SiteId: static.GetId(),
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"domains"}}, Domains: []string{static.GetDomains()[0], v},
			})
			return err
		}},
		{"settings.admin_user", setting("admin_user")},
		{"settings.admin_email", setting("admin_email")},
		{"settings.locale", setting("locale")},
		{"settings", create(func(c *sitev1.CreateSiteRequest, v string) { c.Settings[v] = "x" })},
	}
}

// hostileStrings is F05: the names of a site are what reaches nginx. Without
// the type of names, a semicolon ends server_name and opens a directive.
func hostileStrings(t *testing.T, r *attackRange) {
	doors := r.doors(t)
	before := nginxConfig(t, r.host)
	for _, door := range doors {
		for what, value := range map[string]string{
			"a semicolon":    "a.example; return 200 owned",
			"a brace":        "a.example} server { listen 80",
			"a newline":      "a.example\nreturn 200 owned;",
			"CRLF":           "a.example\r\nX: y",
			"%0a":            "a.example%0areturn",
			"a variable":     "$host.example",
			"${}":            "${hostname}.example",
			"a comment":      "a.example#b",
			"a double quote": `a".example`,
			"a single quote": "a'.example",
			"a backslash":    `a\.example`,
			"a wildcard":     "*.example",
			"a regex":        "~^.*$",
			"an underscore":  "_",
			"user info":      "user:pass@a.example",
			"a path":         "a.example/../../etc",
			"a space":        "a.example b.example",
			"a tab":          "a.example\tb.example",
			"U+2028":         "a\u2028.example",
			"a shell":        "$(id).`id`.example",
		} {
			refused(t, door.send(value), door.field, what)
		}
	}
	if diff := changed(before, nginxConfig(t, r.host)); len(diff) > 0 {
		t.Errorf("refused requests changed %v", diff)
	}

	// A title may hold all of that: it goes to the page and nowhere else.
	s := r.neighbour(t)
	title := `a; } server { return 200 "$host" # \ 'b' %0a ` + "`id` $(id)"
	update := func(settings map[string]string, domains []string) {
		t.Helper()
		ctx := timeout(t, time.Minute)
		req := &sitev1.UpdateSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), UpdateMask: &fieldmaskpb.FieldMask{}}
		if settings != nil {
			req.Settings, req.UpdateMask.Paths = settings, append(req.UpdateMask.Paths, "settings")
		}
		if domains != nil {
			req.Domains, req.UpdateMask.Paths = domains, append(req.UpdateMask.Paths, "domains")
		}
		res, err := world.rig.Sites.UpdateSite(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		done(t, ctx, res.GetTask())
	}
	update(map[string]string{"title": title}, nil)
	if diff := changed(before, nginxConfig(t, r.host)); len(diff) > 0 {
		t.Errorf("a title changed %v", diff)
	}
	shows(t, r.host, s, http.StatusOK, "a; } server { return 200 &#34;$host&#34; # \\ &#39;b&#39; %0a `id` $(id)")
	for _, bad := range []string{"a\nb", "a\x00b", "a\u2028b", "a\u202eb", strings.Repeat("x", 5000)} {
		_, err := world.rig.Sites.UpdateSite(t.Context(), &sitev1.UpdateSiteRequest{
			OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(),
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"settings"}}, Settings: map[string]string{"title": bad},
		})
		refused(t, err, "settings", fmt.Sprintf("the title %.20q", bad))
	}

	// A real change of names touches the site's own file alone.
	update(nil, append(slices.Clone(s.GetDomains()), "xn--bcher-kva."+s.GetDomains()[0]))
	if diff, own := changed(before, nginxConfig(t, r.host)), "/etc/nginx/chom/sites/"+s.GetHandle()+".conf"; !slices.Equal(diff, []string{own}) {
		t.Errorf("a new name changed %v, want %s alone", diff, own)
	}
	update(map[string]string{"title": s.GetSettings()["title"]}, s.GetDomains())
}

// hostileOptions is F15: no value becomes an option of a program. Without the
// types, "-x" as a name would reach useradd, mariadb or a plugin's argv.
func hostileOptions(t *testing.T, r *attackRange) {
	for _, door := range r.doors(t) {
		for _, value := range []string{"-x", "--upload-pack=touch /etc/hostile/dir/x", "--", "-", "-oProxyCommand=x", "--defaults-file=/etc/shadow"} {
			refused(t, door.send(value), door.field, value)
		}
	}
	for _, title := range []string{"--help", "-rf /", "-- -x"} {
		_, err := world.rig.Sites.UpdateSite(t.Context(), &sitev1.UpdateSiteRequest{
			OrganizationId: r.neighbour(t).GetOrganizationId(), SiteId: r.neighbour(t).GetId(),
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"settings"}}, Settings: map[string]string{"title": title},
		})
		refused(t, err, "settings", title)
	}
}

// injectedSettings: text that means something to PHP, HTML or a shell stays
// text, and a tenant's .user.ini can't undo what the pool decided.
func injectedSettings(t *testing.T, r *attackRange) {
	unharmed := r.guard(t)
	s := r.attacker(t)
	config := sh(t, r.host, "sha256sum "+public(s)+"/wp-config.php")
	for _, title := range []string{
		`'); touch('/etc/hostile/open'); // <?php system('id'); ?> %1$s x'; DROP TABLE wp_options; -- </title><script>alert(1)</script>`,
	} {
		ctx := timeout(t, time.Minute)
		res, err := world.rig.Sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{
			OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(),
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"settings"}}, Settings: map[string]string{"title": title},
		})
		if err != nil {
			t.Fatal(err)
		}
		done(t, ctx, res.GetTask())
		p := shows(t, r.host, s, http.StatusOK, "")
		for _, bad := range []string{"<script>alert", "<?php", "uid="} {
			if strings.Contains(p.Body, bad) {
				t.Errorf("the title %q puts %q on the page", title, bad)
			}
		}
	}
	if after := sh(t, r.host, "sha256sum "+public(s)+"/wp-config.php"); after != config {
		t.Error("a title changed wp-config.php")
	}

	dir := public(s) + "/ini"
	plant(t, r.host, s, dir+"/.user.ini", strings.Join([]string{
		"precision = 7", // the tenant's to choose, and the proof that the file is read
		"auto_prepend_file = " + secretFile,
		"memory_limit = 4G", "session.save_path = " + private(r.victim(t)) + "/sessions", "upload_tmp_dir = /etc",
		"error_log = " + openFile, "allow_url_include = on", "cgi.fix_pathinfo = 1", "max_execution_time = 0",
	}, "\n"))
	plant(t, r.host, s, dir+"/x.php", `<?php foreach (["precision", "memory_limit", "session.save_path", "upload_tmp_dir", "error_log", "allow_url_include", "max_execution_time"] as $k) echo "$k=", ini_get($k), "\n";`)
	p, err := visit(t, r.host, s.GetDomains()[0], "/ini/x.php")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(p.Body, r.secret) {
		t.Errorf("auto_prepend_file shows root's file: %s", p.Body)
	}
	must(t, r.host, s, "sed -i /prepend/d "+dir+"/.user.ini && mv "+dir+" "+public(s)+"/ini2") // PHP remembers the other for five minutes
	if p, err = visit(t, r.host, s.GetDomains()[0], "/ini2/x.php"); err != nil || p.Status != http.StatusOK {
		t.Fatalf("%d, %v", p.Status, err)
	}
	for _, want := range []string{"precision=7", "memory_limit=268435456", "session.save_path=" + private(s) + "/sessions", "upload_tmp_dir=" + private(s) + "/upload", "error_log=syslog", "max_execution_time=110"} {
		if !strings.Contains(p.Body, want+"\n") {
			t.Errorf("want %s with a hostile .user.ini, got:\n%s", want, p.Body)
		}
	}
	if regexp.MustCompile(`allow_url_include=(1|on)`).MatchString(p.Body) {
		t.Error("allow_url_include was switched on")
	}
	unharmed(t)
}

// raw sends bytes to the host's port 80 and returns the answer's beginning.
func raw(t *testing.T, h *host, request string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(h.Addr().String(), "80"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		return ""
	}
	b, err := io.ReadAll(bufio.NewReader(io.LimitReader(c, 1<<20)))
	if len(b) == 0 && err != nil {
		return "" // reset: refused
	}
	return string(b)
}

// unknownNames is H05. Without the default server the first site of the host
// answers to every name.
func unknownNames(t *testing.T, r *attackRange) {
	s, name := r.neighbour(t), r.neighbour(t).GetDomains()[0]
	title := s.GetSettings()["title"]
	get := func(target, version, host string) string {
		return fmt.Sprintf("GET %s HTTP/%s\r\n%sConnection: close\r\n\r\n", target, version, host)
	}
	if got := raw(t, r.host, get("/", "1.1", "Host: "+name+"\r\n")); !strings.Contains(got, title) {
		t.Fatalf("the site's own name answers:\n%s", got)
	}
	addr := r.Addr().String()
	for what, request := range map[string]string{
		"unknown name":           get("/", "1.1", "Host: unknown.example\r\n"),
		"a name below":           get("/", "1.1", "Host: x."+name+"\r\n"),
		"a name above":           get("/", "1.1", "Host: tests.example\r\n"),
		"bare address":           get("/", "1.1", "Host: "+addr+"\r\n"),
		"address and port":       get("/", "1.1", "Host: "+addr+":80\r\n"),
		"IPv6 address":           get("/", "1.1", "Host: [::1]\r\n"),
		"localhost":              get("/", "1.1", "Host: localhost\r\n"),
		"underscore":             get("/", "1.1", "Host: _\r\n"),
		"empty name":             get("/", "1.1", "Host: \r\n"),
		"no name":                get("/", "1.1", ""),
		"HTTP/1.0 without name":  get("/", "1.0", ""),
		"name twice":             get("/", "1.1", "Host: unknown.example\r\nHost: "+name+"\r\n"),
		"unknown absolute":       get("http://unknown.example/", "1.1", "Host: "+name+"\r\n"),
		"forwarded":              get("/", "1.1", "Host: unknown.example\r\nX-Forwarded-Host: "+name+"\r\n"),
		"the generation counter": get("/", "1.1", "Host: generation.chom.invalid\r\n"),
		"HTTP/0.9":               "GET /\r\n",
	} {
		got := raw(t, r.host, request)
		if got != "" && !strings.HasPrefix(got, "HTTP/1.1 400 ") && !strings.Contains(got, "<title>400 ") {
			t.Errorf("%s gets an answer:\n%.300s", what, got)
		}
		if strings.Contains(got, title) {
			t.Errorf("%s gets a tenant's page", what)
		}
	}
}

// servedFiles is F08. Without nginx's rules these files are text to it.
func servedFiles(t *testing.T, r *attackRange) {
	const source = "SOURCE-OF-TENANT"
	for _, s := range []*sitev1.Site{r.attacker(t), r.neighbour(t)} {
		files := []string{
			".env", ".git/config", ".git/HEAD", ".htaccess", ".htpasswd", ".svn/entries", ".user.ini", ".ssh/id_rsa", ".DS_Store", "sub/.env", "sub/.git/config",
			"wp-config.php~", "wp-config.php.bak", "wp-config.php.save", "wp-config.php.swp", ".wp-config.php.swp", "wp-config.php.old", "wp-config.php.orig", "#wp-config.php#", "wp-config.bak",
			"dump.sql", "dump.sql.gz", "db.sqlite", "backup.sql.tar.gz", "php.ini", "settings.yml", "settings.yaml", "composer.lock", "error.log", "wp-content/debug.log", "server.key", "server.pem", "deploy.sh", "app.inc",
			"x.phtml", "x.phar", "x.phps", "x.php5", "x.php7", "x.pht", "x.PHP", "x.pHp",
			"wp-content/uploads/evil.php", "wp-content/uploads/2026/01/evil.php", "uploads/evil.php", "files/evil.php", "wp-content/cache/evil.php",
		}
		for _, f := range files {
			plant(t, r.host, s, public(s)+"/"+f, "<?php /* "+source+" */ echo 'RAN-AS-CODE';")
		}
		plant(t, r.host, s, public(s)+"/a.jpg", "<?php /* "+source+" */ echo 'RAN-AS-CODE';")
		plant(t, r.host, s, public(s)+"/.well-known/open.txt", "open")
		get := func(path string) string {
			return raw(t, r.host, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, s.GetDomains()[0]))
		}
		if got := get("/.well-known/open.txt"); !strings.Contains(got, "open") || !strings.Contains(got, " 200 ") {
			t.Errorf("%s: .well-known is not served:\n%s", s.GetType(), got)
		}
		if got := get("/a.jpg"); !strings.Contains(got, source) || !strings.Contains(got, "nosniff") {
			t.Errorf("%s: a picture is not served as the bytes it is:\n%.200s", s.GetType(), got)
		}
		paths := []string{
			"/a.jpg/x.php", "/a.jpg/.php", "/a.jpg%00.php", "/a.jpg/%2e%2e/x.php",
			"/static../x", "/../../../etc/passwd", "/..%2f..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/private/.chom-lock", "/sub/../../private/.chom-lock",
			"//.env", "/./.env", "/%2eenv", "/.git%2fconfig", "/sub//.env", "/wp-config.php%7e", "/wp-config.php~?x", "/x.php/../.env", "/x.ph%70s",
		}
		for _, f := range files {
			paths = append(paths, "/"+strings.ReplaceAll(f, "#", "%23"))
		}
		for _, path := range paths {
			got := get(path)
			status := regexp.MustCompile(`^HTTP/1\.1 (\d+)`).FindStringSubmatch(got)
			// WordPress answers a nonexistent address with its own page, by its front controller.
			if status == nil || !slices.Contains([]string{"400", "403", "404"}, status[1]) {
				t.Errorf("%s: %s answers\n%.200s", s.GetType(), path, got)
			}
			for _, bad := range []string{source, "RAN-AS-CODE", "root:x:0:0"} {
				if strings.Contains(got, bad) {
					t.Errorf("%s: %s shows %s", s.GetType(), path, bad)
				}
			}
		}
		if s.GetType() == "wordpress" {
			if got := get("/wp-config.php"); strings.Contains(got, "AUTH_KEY") || strings.Contains(got, "<?php") {
				t.Errorf("wp-config.php shows its source:\n%.200s", got)
			}
		}
		must(t, r.host, s, "cd "+public(s)+" && rm -rf -- "+quoted(append(files, "a.jpg", ".well-known", ".git", "sub", ".svn", ".ssh", "uploads", "files")))
	}
}

func quoted(words []string) string {
	var out []string
	for _, w := range words {
		out = append(out, "'"+w+"'")
	}
	return strings.Join(out, " ")
}

// workers are nginx's processes: a reload replaces all of them.
func workers(t *testing.T, h *host) string {
	return sh(t, h, "pgrep --parent $(cat /run/nginx.pid) | sort | tr '\\n' ' '")
}

// brokenNeighbour is F07. Without setting the culprit aside one broken file
// stops every change on the host.
func brokenNeighbour(t *testing.T, r *attackRange) {
	theirs, ours, third := r.victim(t), r.attacker(t), r.neighbour(t)
	file := func(dir string) string { return "/etc/nginx/chom/" + dir + "/" + theirs.GetHandle() + ".conf" }
	intact := sh(t, r.host, "cat "+file("sites"))
	for _, breakage := range []struct { // in this order: after the second one there is no good version to return to
		what, line string
		restored   bool
	}{
		{"garbage in a file whose last good version is known", "echo 'nonsense {' >> " + file("sites"), true},
		{"a missing certificate, and no good version", "rm " + file("good") + "; sed -i 's#listen 80;#listen 443 ssl; ssl_certificate /etc/gone.pem; ssl_certificate_key /etc/gone.key;#' " + file("sites"), false},
	} {
		what := breakage.what
		sh(t, r.host, breakage.line)
		if _, err := r.Output(t.Context(), "nginx", "-t"); err == nil {
			t.Fatalf("%s: nginx bears it: the test would prove nothing", what)
		}
		name := "after-" + strings.ToLower(strings.ReplaceAll(what[:7], " ", "-")) + "." + ours.GetDomains()[0]
		ctx := timeout(t, time.Minute)
		res, err := world.rig.Sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{
			OrganizationId: ours.GetOrganizationId(), SiteId: ours.GetId(),
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"domains"}}, Domains: []string{ours.GetDomains()[0], name},
		})
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		task, err := world.rig.Wait(ctx, res.GetTask(), func(m *taskv1.WatchTaskResponse) {
			for _, l := range m.GetLogLines() {
				lines = append(lines, l.GetText())
			}
		})
		if err != nil || task.GetState() != taskv1.State_STATE_SUCCEEDED {
			t.Errorf("%s: our change: %s %s, %v", what, task.GetState(), task.GetError(), err)
		}
		if said := strings.Join(lines, "\n"); !strings.Contains(said, theirs.GetHandle()+" was set aside") {
			t.Errorf("%s: nobody is told who was set aside:\n%s", what, said)
		}
		if p, err := visit(t, r.host, name, "/"); err != nil || p.Status >= http.StatusInternalServerError {
			t.Errorf("%s: our new name: %d, %v", what, p.Status, err)
		}
		if p, err := visit(t, r.host, third.GetDomains()[0], "/"); err != nil || p.Status != http.StatusOK {
			t.Errorf("%s: a third site: %d, %v", what, p.Status, err)
		}
		p, err := visit(t, r.host, theirs.GetDomains()[0], "/")
		if served := err == nil && p.Status == http.StatusOK; served != breakage.restored {
			t.Errorf("%s: the broken site answers %d, %v", what, p.Status, err)
		}
		if _, err := r.Output(t.Context(), "nginx", "-t"); err != nil {
			t.Errorf("%s: left behind: %v", what, err)
		}
		if _, err := r.ReadFile(file("broken")); err != nil {
			t.Errorf("%s: what was set aside is not kept: %v", what, err)
		}
	}
	wentWell(t, r.walk(t, theirs, "resume")) // any order over the site heals it
	if healed := sh(t, r.host, "cat "+file("sites")); healed != intact {
		t.Errorf("healed to:\n%s", healed)
	}
	shows(t, r.host, theirs, http.StatusOK, "")
}

// brokenBase is the other half of F07: what nginx -t refuses is never loaded,
// even where no site is to blame.
func brokenBase(t *testing.T, r *attackRange) {
	s := r.neighbour(t)
	before, pids := nginxConfig(t, r.host), workers(t, r.host)
	sh(t, r.host, "cp /etc/nginx/nginx.conf /root/nginx.conf && echo 'nonsense;' >> /etc/nginx/nginx.conf")
	o := r.order(t, s, "update")
	if o.state != taskv1.State_STATE_FAILED || !strings.Contains(o.err, "nonsense") {
		t.Errorf("with a broken nginx.conf an update is %s: %s", o.state, o.err)
	}
	if now := workers(t, r.host); now != pids {
		t.Errorf("nginx was reloaded: workers %s, were %s", now, pids)
	}
	shows(t, r.host, s, http.StatusOK, "")
	sh(t, r.host, "cp /root/nginx.conf /etc/nginx/nginx.conf && rm /root/nginx.conf")
	if diff := changed(before, nginxConfig(t, r.host)); len(diff) > 0 {
		t.Errorf("a failed change left %v", diff)
	}
	wentWell(t, r.walk(t, s, "update"))
}
