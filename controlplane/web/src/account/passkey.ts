// The browser's side of passkeys.
import type { Challenge } from "../gen/chom/account/v1/account_pb.js";

/** Has a passkey of this person answer. */
export async function answer({ options }: Challenge): Promise<string> {
	const asked = JSON.parse(options);
	const credential = await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(asked.publicKey ?? asked) });
	return JSON.stringify((credential as PublicKeyCredential).toJSON());
}

/** Has this device make a passkey. */
export async function make({ options }: Challenge): Promise<string> {
	const asked = JSON.parse(options);
	const credential = await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(asked.publicKey ?? asked) });
	return JSON.stringify((credential as PublicKeyCredential).toJSON());
}
