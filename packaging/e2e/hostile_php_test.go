package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// readers are ways in which PHP gets at a file. Each is tried on the site's
// own wp-config.php first: a way that does not work proves nothing.
const readers = `
error_reporting(0);
$own = %q;
$readers = [
	'file_get_contents' => fn($p) => file_get_contents($p),
	'include' => function ($p) { ob_start(); $r = include 'php://filter/read=convert.base64-encode/resource=' . $p; return base64_decode(ob_get_clean()); },
	'SplFileObject' => function ($p) { $f = new SplFileObject($p); return $f->fread(1 << 16); },
	'copy' => function ($p) { $to = sys_get_temp_dir() . '/c' . getmypid(); unlink($to); return copy($p, $to) ? file_get_contents($to) : false; },
	'link, then read' => function ($p) { $l = __DIR__ . '/l' . getmypid(); unlink($l); symlink($p, $l); $c = file_get_contents($l); unlink($l); return $c; },
	'hard link' => function ($p) { $l = __DIR__ . '/h' . getmypid(); unlink($l); return link($p, $l) ? file_get_contents($l) : false; },
	'curl' => function ($p) { $c = curl_init('file://' . $p); curl_setopt($c, CURLOPT_RETURNTRANSFER, true); return curl_exec($c); },
	'exec' => fn($p) => shell_exec('cat -- ' . escapeshellarg($p)),
	'through /proc/self/root' => fn($p) => file_get_contents('/proc/self/root' . $p),
	'through the parents' => fn($p) => file_get_contents(__DIR__ . '/../../../../..' . $p),
	'highlight_file' => fn($p) => html_entity_decode(strip_tags(highlight_file($p, true))),
];
$read = function ($how, $p) use ($readers) { try { return (string) $readers[$how]($p); } catch (Throwable $e) { return ''; } };
`

// crossSiteRead is F09: no open_basedir stands in PHP's way here, so whatever
// says no is the kernel. Without the namespaces and owners, one of the readers
// gets through.
func crossSiteRead(t *testing.T, r *attackRange) {
	a, v := r.attacker(t), r.victim(t)
	unharmed := r.guard(t)
	// What the victim has, also where both could write: its own /tmp, /dev/shm, sessions.
	if got := php(t, r.host, v, `umask(0); file_put_contents('/tmp/of-victim', 'VICTIM-TMP'); file_put_contents('/dev/shm/of-victim', 'VICTIM-SHM'); $m = shmop_open(0x486f73, 'c', 0666, 16); shmop_write($m, 'VICTIM-SYSV', 0); file_put_contents('`+private(v)+`/sessions/sess_x', 'VICTIM-SESSION'); opcache_compile_file('`+public(v)+`/index.php');
		echo shmop_read($m, 0, 11), file_get_contents('/dev/shm/of-victim');`); got != "VICTIM-SYSVVICTIM-SHM" {
		t.Errorf("the victim's shared memory does not work: %q", got)
	}
	must(t, r.host, v, "umask 022; echo VICTIM-OWN-TMP > /tmp/of-victim-outside; echo VICTIM-SHM > /dev/shm/"+v.GetHandle()+"; chmod 640 /dev/shm/"+v.GetHandle()+"; mkdir -p "+public(v)+"/wp-content/uploads; echo VICTIM-UPLOAD > "+public(v)+"/wp-content/uploads/x; chmod -R a+rX "+public(v))
	master := sh(t, r.host, "systemctl show --property=MainPID --value chom-php-"+v.GetHandle()+".service")
	tmp := sh(t, r.host, "ls -d /tmp/systemd-private-*-chom-php-"+v.GetHandle()+".service-*/tmp")

	targets := []string{
		public(v) + "/wp-config.php", public(v) + "/index.php", public(v) + "/wp-content/uploads/x", private(v) + "/sessions/sess_x",
		"/tmp/of-victim", tmp + "/of-victim", "/tmp/of-victim-outside", "/dev/shm/of-victim", "/dev/shm/" + v.GetHandle(),
		"/proc/" + master + "/root" + public(v) + "/wp-config.php", "/proc/" + master + "/cwd/index.php", "/proc/" + master + "/environ", "/proc/" + master + "/maps", "/proc/" + master + "/status", "/proc/" + master + "/cmdline",
		"/proc/1/root/etc/shadow", "/proc/1/environ", shadowFile, secretFile,
		"/etc/chom-agent/php/" + v.GetHandle() + ".conf", "/var/log/chom/sites/" + v.GetHandle() + "/access.log", "/var/log/chom/sites/" + a.GetHandle() + "/access.log",
		"/var/lib/chom-agent/journal.db", "/run/chom-agent/status.json", "/var/lib/mysql/s" + v.GetHandle() + "/db.opt", "/var/lib/mysql/mysql/global_priv.MAD",
		"/root/.bashrc", "/proc/kcore", "/dev/mem", "/proc/kmsg",
	}
	lists := []string{
		"/srv/chom/sites", public(v), private(v), private(v) + "/sessions", "/run/chom-php/" + v.GetHandle(), "/var/log/chom", "/var/log/chom/sites",
		"/var/lib/chom-agent", "/run/chom-agent", "/run/chom-plugin", tmp, "/var/lib/mysql", "/root", "/home", "/dev/shm", "/run/lock", "/etc/chom-agent/php", "/var/spool/cron",
	}
	var got struct {
		Control map[string]string
		Read    map[string]string
		Listed  map[string][]string
		Pids    map[string]string
		Signal  bool
		Memory  string
		Scripts []string
		Write   []string
	}
	body := php(t, r.host, a, fmt.Sprintf(readers, public(a)+"/wp-config.php")+`
$targets = json_decode('`+encode(targets)+`'); $lists = json_decode('`+encode(lists)+`');
$out = ['Control' => [], 'Read' => (object) [], 'Listed' => (object) [], 'Pids' => (object) [], 'Write' => []];
foreach ($readers as $how => $_) {
	if (!str_contains($read($how, $own), 'DB_NAME')) $out['Control'][$how] = 'does not work';
	foreach ($targets as $p) { $c = $read($how, $p); if ($c !== '') $out['Read']->{"$how $p"} = substr($c, 0, 80); }
}
$out['Control'] = (object) $out['Control'];
foreach ($lists as $d) foreach (['scandir' => scandir($d), 'glob' => glob($d . '/*'), 'glob://' => iterator_to_array(new DirectoryIterator('glob://' . $d . '/*')), 'ls' => explode("\n", trim((string) shell_exec('ls -A ' . escapeshellarg($d))))] as $how => $found) {
	$found = array_values(array_diff(array_filter(array_map('strval', $found ?: [])), ['.', '..']));
	if ($found) $out['Listed']->{"$how $d"} = array_slice($found, 0, 3);
}
foreach (scandir('/proc') as $pid) if (ctype_digit($pid) && preg_match('/^Uid:\s+(\d+)/m', file_get_contents("/proc/$pid/status"), $m)) $out['Pids']->{$pid} = $m[1];
$out['Memory'] = ($m = shmop_open(0x486f73, 'a', 0, 0)) ? shmop_read($m, 0, 11) : '';
$out['Signal'] = posix_kill(`+master+`, 0);
$out['Scripts'] = array_keys(opcache_get_status()['scripts'] ?? []);
foreach ([...$targets, ...array_map(fn($d) => "$d/owned", $lists), '`+openFile+`', '`+openDir+`/owned', '/etc/cron.d/owned', '/usr/lib/chom/plugins/owned', '/var/cache/chom-agent/archives/owned', '/etc/nginx/chom/snippets/owned'] as $p)
	foreach (['append' => fopen($p, 'ab'), 'chmod' => chmod($p, 0777), 'unlink' => !str_contains($p, '/proc/') && unlink($p), 'rename' => rename($p, $p . '.moved')] as $how => $ok) if ($ok) $out['Write'][] = "$how $p";
echo json_encode($out, JSON_INVALID_UTF8_SUBSTITUTE);`)
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v: %.500s", err, body)
	}
	for how := range got.Control {
		t.Errorf("%s can't even read the site's own file: it proves nothing", how)
	}
	for what, content := range got.Read {
		t.Errorf("read: %s: %q", what, content)
	}
	for what, names := range got.Listed {
		if !strings.HasSuffix(what, " /srv/chom/sites") || !slices.Equal(names, []string{a.GetHandle()}) && !slices.Equal(names, []string{"/srv/chom/sites/" + a.GetHandle()}) {
			t.Errorf("listed: %s: %v", what, names)
		}
	}
	for _, what := range got.Write {
		if _, path, _ := strings.Cut(what, " "); !strings.HasPrefix(path, "/tmp/of-victim") && path != "/dev/shm/of-victim" && path != "/dev/shm/owned" && path != "/dev/shm/"+v.GetHandle() { // its own files of these names, in its own /tmp and /dev/shm
			t.Errorf("changed: %s", what)
		}
	}
	own := sh(t, r.host, "id -u s-"+a.GetHandle())
	if len(got.Pids) == 0 {
		t.Error("PHP sees no process at all, not even its own: the test proves nothing")
	}
	for pid, uid := range got.Pids {
		if uid != own {
			t.Errorf("PHP sees process %s of user %s", pid, uid)
		}
	}
	if got.Memory != "" {
		t.Errorf("PHP reads the victim's shared memory: %q", got.Memory)
	}
	if got.Signal {
		t.Error("PHP can signal the victim's master")
	}
	if len(got.Scripts) == 0 {
		t.Error("the opcode cache is empty: the test proves nothing")
	}
	for _, script := range got.Scripts {
		if !strings.HasPrefix(script, "/srv/chom/sites/"+a.GetHandle()+"/") {
			t.Errorf("the opcode cache shows %s", script)
		}
	}
	// The same as the plain user, outside of every sandbox: owners and modes alone must do.
	for _, p := range slices.Concat(targets, lists) {
		if p == "/tmp/of-victim-outside" || strings.HasSuffix(p, "/status") || strings.HasSuffix(p, "/cmdline") || slices.Contains([]string{"/home", "/var/log/chom", "/var/lib/mysql", "/dev/shm", "/run/lock"}, p) { // open to every user of a Unix host; the sandbox above hides them
			continue
		}
		if res := as(t, r.host, a, "if [ -d "+p+" ]; then ls -A "+p+"; else cat "+p+"; fi"); res.Code == 0 {
			t.Errorf("the plain user reads %s: %.80q", p, res.Stdout)
		}
	}
	sh(t, r.host, "rm -f /tmp/of-victim-outside /dev/shm/"+v.GetHandle())
	unharmed(t)
}

func encode(list []string) string {
	b, err := json.Marshal(list)
	if err != nil {
		panic(err) // strings
	}
	return string(b)
}

// fastcgi is a client in PHP that has a script run with a setting of ours.
const fastcgi = `
error_reporting(0);
function ask($socket, $script, $prepend) {
	$c = stream_socket_client("unix://$socket", $no, $why, 3);
	if (!$c) return "refused $no";
	$pair = fn($k, $v) => pack('NN', strlen($k) | 0x80000000, strlen($v) | 0x80000000) . $k . $v;
	$params = '';
	foreach (['SCRIPT_FILENAME' => $script, 'REQUEST_METHOD' => 'GET', 'PHP_VALUE' => "auto_prepend_file=$prepend"] as $k => $v) $params .= $pair($k, $v);
	$record = fn($type, $body) => pack('CCnnCC', 1, $type, 1, strlen($body), 0, 0) . $body;
	fwrite($c, $record(1, "\0\1\0\0\0\0\0\0") . $record(4, $params) . $record(4, '') . $record(5, ''));
	stream_set_timeout($c, 3);
	return 'answer ' . stream_get_contents($c);
}
`

// crossPool is F10. Without the mode of the socket's directory, whoever
// reaches a pool runs what he likes as its user.
func crossPool(t *testing.T, r *attackRange) {
	a, v := r.attacker(t), r.victim(t)
	unharmed := r.guard(t)
	socket := func(s *sitev1.Site) string { return "/run/chom-php/" + s.GetHandle() + "/php.sock" }
	plant(t, r.host, a, public(a)+"/prepended.php", `<?php echo "PREPENDED-AS-", posix_getuid(), "\n";`)
	plant(t, r.host, a, "/tmp/prepended-"+a.GetHandle()+".php", `<?php echo "PREPENDED-AS-", posix_getuid(), "\n";`)
	if own := php(t, r.host, a, fastcgi+`echo ask('`+socket(a)+`', '`+public(a)+`/prepended.php', '`+public(a)+`/prepended.php');`); strings.Count(own, "PREPENDED-AS-") != 2 {
		t.Fatalf("the attack does not even work on the own pool: %s", own)
	}
	if got := php(t, r.host, a, fastcgi+`echo ask('`+socket(v)+`', '`+public(v)+`/index.php', '/tmp/prepended-`+a.GetHandle()+`.php');`); !strings.HasSuffix(got, "refused 13") { // the own pool still puts the other file before every page
		t.Errorf("another site's socket says %s", got)
	}
	if res := as(t, r.host, a, `perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0); connect(S,sockaddr_un("`+socket(v)+`")) and exit 0; print $!; exit 1'`); res.Code == 0 || !strings.Contains(res.Stdout, "Permission denied") {
		t.Errorf("outside of the sandbox: code %d: %s", res.Code, res.Stdout)
	}

	// A link in place of the own socket leads nginx to the victim's. It must
	// not run the attacker's script as the victim, nor the victim's for him.
	must(t, r.host, a, "cd /run/chom-php/"+a.GetHandle()+" && mv php.sock kept && ln -s "+socket(v)+" php.sock")
	p, err := visit(t, r.host, a.GetDomains()[0], "/prepended.php")
	if err == nil && (p.Status == http.StatusOK || strings.Contains(p.Body, "PREPENDED-AS-")) {
		t.Errorf("by a link the victim's pool answers %d: %.200s", p.Status, p.Body)
	}
	// The agent is not led there either: what it measures stays an answer of the site's own.
	wentWell(t, r.walk(t, a, "update"))
	if target := sh(t, r.host, "readlink "+socket(a)+" || true"); target != "" {
		t.Errorf("an update leaves the site's socket a link to %s", target)
	}
	shows(t, r.host, a, http.StatusOK, "")
	shows(t, r.host, v, http.StatusOK, "")
	sh(t, r.host, "rm -f /tmp/prepended-*")
	unharmed(t)
}

// noRootMaster is F12.
func noRootMaster(t *testing.T, r *attackRange) {
	a, v := r.attacker(t), r.victim(t)
	masters := sh(t, r.host, "ps -eo uid=,user:32=,args= | grep '[p]hp-fpm: master'")
	if n := strings.Count(masters, "\n") + 1; n < 2 {
		t.Errorf("fewer masters than sites:\n%s", masters)
	}
	for line := range strings.Lines(masters) {
		if f := strings.Fields(line); f[0] == "0" || !strings.HasPrefix(f[1], "s-") {
			t.Errorf("a master of another: %s", line)
		}
	}
	if got := sh(t, r.host, "ps -eo uid=,args= | awk '$1 == 0 && $2 ~ /php/'"); got != "" {
		t.Errorf("root runs PHP:\n%s", got)
	}
	for _, s := range []*sitev1.Site{a, v} {
		if got := sh(t, r.host, "cat /etc/chom-agent/php/"+s.GetHandle()+".conf"); !strings.Contains(got, "catch_workers_output = no\n") || strings.Contains(got, "catch_workers_output = yes") {
			t.Errorf("the pool catches its workers' output:\n%s", got)
		}
	}
	for _, unit := range []string{"php8.2-fpm.service", "php8.4-fpm.service"} {
		if got := sh(t, r.host, "systemctl is-enabled "+unit+" || true"); got != "masked" {
			t.Errorf("%s is %s", unit, got)
		}
		if res, err := r.Exec(t.Context(), "systemctl", "start", unit); err != nil || res.Code == 0 {
			t.Errorf("%s can be started: %v", unit, err)
		}
	}
}

// rootCanary is F13: a tenant puts code wherever some tool would run it, and
// every order is given. Each run leaves the user and the rights it had.
func rootCanary(t *testing.T, r *attackRange) {
	s := r.attacker(t)
	unharmed := r.guard(t)
	log := private(s) + "/runs"
	witness := `
if (!defined('HOSTILE_SEEN')) {
	define('HOSTILE_SEEN', 1);
	preg_match_all('/^(Uid|Gid|CapEff|CapPrm|NoNewPrivs|Seccomp):\s*(.*)$/m', file_get_contents('/proc/self/status'), $m);
	file_put_contents('` + log + `', json_encode([PHP_SAPI, basename(__FILE__), array_combine($m[1], $m[2]), trim((string) @file_get_contents('/proc/self/cgroup')), @file_put_contents('` + openFile + `', 'owned') !== false || @file_put_contents('/etc/cron.d/owned', '') !== false]) . "\n", FILE_APPEND);
}
`
	content := public(s) + "/wp-content"
	for path, code := range map[string]string{
		content + "/mu-plugins/0-hostile.php":     "<?php\n" + witness,
		content + "/plugins/hostile/hostile.php":  "<?php\n/* Plugin Name: Hostile */\n" + witness,
		content + "/db.php":                       "<?php\n" + witness,
		content + "/advanced-cache.php":           "<?php\n" + witness,
		content + "/themes/hostile/functions.php": "<?php\n" + witness,
		public(s) + "/prepend.php":                "<?php\n" + witness,
		public(s) + "/.user.ini":                  "auto_prepend_file = " + public(s) + "/prepend.php\n",
		public(s) + "/php.ini":                    "auto_prepend_file = " + public(s) + "/prepend.php\n",
		public(s) + "/wp-cli.yml":                 "require: prepend.php\n",
		public(s) + "/composer.json":              `{"scripts": {"pre-install-cmd": "touch ` + openDir + `/owned"}}`,
		public(s) + "/artisan":                    "<?php\n" + witness,
		public(s) + "/.git/config":                "[core]\n\tfsmonitor = touch " + openDir + "/owned\n",
		public(s) + "/.git/HEAD":                  "ref: refs/heads/main\n",
		public(s) + "/.my.cnf":                    "[client]\ninit-command = \"SELECT 1 INTO OUTFILE '/etc/hostile/dir/owned'\"\n",
	} {
		plant(t, r.host, s, path, code)
	}
	must(t, r.host, s, `sed -i '1a include_once "`+public(s)+`/prepend.php";' `+public(s)+`/wp-config.php`)
	wentWell(t, r.walk(t, s, everything...))
	sh(t, r.host, "systemctl start chom-cron-"+s.GetHandle()+".service")
	shows(t, r.host, s, http.StatusOK, "")

	uid := sh(t, r.host, "id -u s-"+s.GetHandle())
	var cli, fpm, cron int
	for line := range strings.Lines(sh(t, r.host, "cat "+log)) {
		var run []any
		if err := json.Unmarshal([]byte(line), &run); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		status, group := run[2].(map[string]any), run[3].(string)
		switch {
		case strings.Contains(group, "chom-cron-"):
			cron++
		case run[0] == "cli":
			cli++
		default:
			fpm++
		}
		for _, id := range []string{"Uid", "Gid"} {
			if !regexp.MustCompile(`^` + uid + `(\s+` + uid + `){3}$`).MatchString(status[id].(string)) {
				t.Errorf("a tool ran the tenant's code with another user: %s", line)
			}
		}
		if strings.Trim(status["CapEff"].(string)+status["CapPrm"].(string), "0") != "" || status["NoNewPrivs"] != "1" || status["Seccomp"] != "2" {
			t.Errorf("a tool ran the tenant's code with rights: %s", line)
		}
		if !strings.Contains(group, "chom-"+s.GetHandle()+".slice") {
			t.Errorf("a tool ran the tenant's code outside of his slice: %s", line)
		}
		if run[4] == true {
			t.Errorf("a tool ran the tenant's code without a sandbox: %s", line)
		}
	}
	if cli == 0 || fpm == 0 || cron == 0 {
		t.Errorf("the code ran %d times by a tool, %d times by a visit and %d times by the timer: the test proves nothing", cli, fpm, cron)
	}
	must(t, r.host, s, "cd "+public(s)+" && sed -i /prepend.php/d wp-config.php && rm -rf .user.ini php.ini prepend.php wp-cli.yml composer.json artisan .git .my.cnf wp-content/mu-plugins/0-hostile.php wp-content/plugins/hostile wp-content/db.php wp-content/advanced-cache.php wp-content/themes/hostile")
	unharmed(t)
}
