// An operator acts as a member until the time for it is over: here that is seconds, as the control plane was told.
import { fromBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { startChomd } from "./chomd.js";
import { connect } from "./client.js";
import { StartImpersonationResponseSchema } from "./gen/chom/token/v1/token_service_pb.js";
import { password, signUp, through, walk } from "./walk.js";

const here = walk({ begin: () => startChomd({ flags: ["--impersonation-period", "10s"] }) });
const { fill, press, title, says, go, sound, wrong } = here;

let root = ""; // the operator's token

test("it ends by itself: the page says so, and leads back to the operator's own session", async () => {
	const vera = await here.another();
	await vera.go("/sign-up");
	await signUp(here, vera, "vera@example.com");
	await vera.fill("Name", "acme");
	await vera.press("Create organization");
	await vera.title("acme");
	const organization = new URL(vera.page.url()).pathname;

	const operators = connect(here.chomd);
	root = (await operators.accounts.createFirstOperator({ setupSecret: here.chomd.setupSecret, email: "operator@example.com", password })).token;
	await go("/login");
	await fill("E-mail address", "operator@example.com");
	await fill("Password", password);
	await press("Sign in");
	await here.page.getByRole("link", { name: "Organizations" }).waitFor();
	await go(`${organization}/team`);
	await press("Act as vera@example.com");
	await fill("Reason", "looks why a backup failed");
	await press("Act as them");
	await through(here, here.page.getByText("You act as vera@example.com in acme"));
	await title("acme");
	expect(await here.page.getByRole("link", { name: "Organizations" }).count()).toBe(0);

	await title("You no longer act as vera@example.com"); // nobody did anything
	await says("The time for it is over.");
	expect(await here.page.getByRole("link").count()).toBe(0); // nothing of what she saw
	expect(new URL(here.page.url()).pathname).toBe(organization);
	await sound("acting-over");
	const asked: string[] = [];
	here.page.on("request", (request) => asked.push(request.url()));
	await new Promise((done) => setTimeout(done, 6_000)); // longer than pages wait between two questions
	expect(asked).toEqual([]); // neither in her name nor in the operator's

	await press("Go on as yourself");
	await title("Team");
	await here.page.getByRole("link", { name: "Organizations" }).waitFor();
	await here.page.getByRole("button", { name: "Act as vera@example.com" }).waitFor();
});

test("it ends here, too, when it is ended elsewhere", async () => {
	await press("Act as vera@example.com");
	await fill("Reason", "looks once more at it");
	const started = here.page.waitForResponse("**/StartImpersonation");
	await press("Act as them");
	await here.page.getByText("You act as vera@example.com in acme").waitFor();
	const { token } = fromBinary(StartImpersonationResponseSchema, await (await started).body());
	await connect({ baseUrl: here.chomd.baseUrl, token: root }).tokens.endImpersonation({ tokenId: token?.id ?? "" });
	await title("You no longer act as vera@example.com");
	expect(await here.page.getByText("The time for it is over.").count()).toBe(0);
	await press("Go on as yourself");
	await title("Team");
});

test("no script failed, and nothing was refused by the policy", () => expect(wrong).toEqual([]));
