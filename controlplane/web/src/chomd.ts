// A real control plane for tests: CHOMD names its program.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface Chomd {
	baseUrl: string;
	/** Where agents enrol, host:port. */
	agentAddress: string;
	/** Makes the first operator. */
	setupSecret: string;
	/** The newest mail in which this is found, as it was written to a file, its lines unfolded. */
	mail(wanted?: RegExp): Promise<string>;
	stop(): Promise<void>;
}

interface Options {
	/** Further flags. */
	flags?: string[];
	/** Names that lead to an address for this control plane alone. */
	names?: Record<string, string>;
	/** A file with the certificates of those whom it trusts. */
	roots?: string;
}

export async function startChomd({ flags: more = [], names, roots }: Options = {}): Promise<Chomd> {
	const folder = await mkdtemp(join(tmpdir(), "chom-web-"));
	const port = await freePort();
	const [people, agents] = [`127.0.0.1:${port}`, `127.0.0.1:${await freePort()}`];
	const baseUrl = `http://localhost:${port}`; // passkeys are bound to a name, never to an address
	const mails = join(folder, "mails");
	const packages = join(folder, "packages");
	await mkdir(packages);
	await writeFile(join(packages, "chom-agent_amd64.deb"), "what a server would install");
	const flags = [
		"--people-listen",
		people,
		"--public-url",
		baseUrl,
		"--agents-listen",
		agents,
		"--agent-address",
		agents,
		"--metrics-listen",
		"",
		"--packages-dir",
		packages,
		"--wordpress-url", // simulated agents fetch nothing
		"http://localhost/wordpress.tar.gz",
		"--wordpress-version",
		"6.8.1",
		"--wordpress-sha256",
		"0".repeat(64),
		"--mail-dir",
		mails,
		"--limit-auth",
		"1000",
		"--limit-session", // one walk is a day's work in minutes
		"6000",
		"--limit-operator",
		"6000",
		"--limit-sensitive",
		"1000",
		...more,
	];
	const [program = "", ...words] = [
		...(names ? await within(folder, names) : []),
		process.env.CHOMD ?? "",
		"serve",
		"--data-dir",
		join(folder, "data"),
		...flags,
	];
	const chomd = spawn(program, words, { stdio: ["ignore", "pipe", "ignore"], env: { ...process.env, ...(roots && { SSL_CERT_FILE: roots }) } });
	const setupSecret = await firstSecret(chomd);
	for (let tries = 0; !(await fetch(`${baseUrl}/readyz`).catch(() => undefined))?.ok; tries++) {
		if (tries === 200) throw new Error("chomd did not start");
		await pause(50);
	}
	return {
		baseUrl,
		agentAddress: agents,
		setupSecret,
		mail: (wanted) => newestMail(mails, wanted),
		async stop() {
			chomd.kill();
			await new Promise((done) => chomd.once("exit", done));
			await rm(folder, { recursive: true });
		},
	};
}

/** The words before a program that make it know names of its own: it sees another /etc/hosts. */
async function within(folder: string, names: Record<string, string>): Promise<string[]> {
	const hosts = join(folder, "hosts");
	await writeFile(hosts, ["127.0.0.1 localhost", ...Object.entries(names).map(([name, address]) => `${address} ${name}`), ""].join("\n"));
	return ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts];
}

/** The newest mail of a folder in which this is found, once it is there; its lines unfolded. */
export async function newestMail(folder: string, wanted = /^/): Promise<string> {
	for (let tries = 0; tries < 200; tries++) {
		const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith(".eml")).sort();
		for (const name of names.reverse()) {
			const text = (await readFile(join(folder, name), "utf8")).replaceAll(/=\r?\n/g, "").replaceAll("=3D", "=");
			if (wanted.test(text)) return text;
		}
		await pause(50);
	}
	throw new Error("no mail came");
}

async function firstSecret(chomd: ChildProcess): Promise<string> {
	for await (const line of createInterface({ input: chomd.stdout ?? process.stdin })) {
		const found = /chomsetup_[A-Za-z0-9_-]+/.exec(line);
		if (found) {
			chomd.stdout?.resume();
			return found[0];
		}
	}
	throw new Error("chomd ended at once");
}

/** A port of this machine that nobody listens on. */
export function freePort(): Promise<number> {
	return new Promise((found, failed) => {
		const server = createServer().once("error", failed);
		server.listen(0, "127.0.0.1", () => {
			const address = server.address();
			server.close(() => (address !== null && typeof address === "object" ? found(address.port) : failed(new Error("no port"))));
		});
	});
}

const pause = (milliseconds: number) => new Promise((done) => setTimeout(done, milliseconds));
