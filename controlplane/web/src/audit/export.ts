// The audit log as a file.
import { createClient, type Transport } from "@connectrpc/connect";
import { AuditService, type ExportFormat } from "../gen/chom/audit/v1/audit_service_pb.js";
import type { toRequest } from "./request.js";

/** Fetches the file, part by part, and tells how much there is of it. The page is not left for it: a refusal comes in words. */
export async function exportEvents(
	transport: Transport,
	request: ReturnType<typeof toRequest> & { format: ExportFormat },
	signal: AbortSignal,
	tell: (bytes: number) => void,
): Promise<Blob> {
	const parts: Uint8Array<ArrayBuffer>[] = [];
	let type = "";
	let bytes = 0;
	for await (const { body } of createClient(AuditService, transport).exportAuditEvents(request, { signal })) {
		if (!body) continue;
		type = body.contentType;
		parts.push(body.data as Uint8Array<ArrayBuffer>);
		bytes += body.data.length;
		tell(bytes);
	}
	return new Blob(parts, { type });
}

/** Hands a file to the reader's browser. */
export function save(file: Blob, name: string) {
	const link = document.createElement("a");
	link.href = URL.createObjectURL(file);
	link.download = name;
	link.click();
	setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // by then it is read
}
