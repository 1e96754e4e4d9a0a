// What acts: a button, or a form. While it does it shows that it does; what goes wrong stands beside it in words, and stays.
import type { DescMessage, DescMethod, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { useMutation } from "@connectrpc/connect-query";
import { Box, Button, type ButtonProps, Group, Stack, Text, TextInput } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { createContext, type ReactNode, useContext, useState } from "react";
import { useTranslation } from "react-i18next";
import { Dialog } from "./Dialog.js";
import { Failure } from "./parts.js";

/** Whether the reader may make a call, as the frame says. */
export const Permit = createContext<(method: DescMethod) => boolean>(() => true);

/** What is only there for who may make a call. Buttons below ask by themselves. */
export function Permitted({ method, children }: { method: DescMethod; children: ReactNode }) {
	return useContext(Permit)(method) ? children : null;
}

interface ActProps<I extends DescMessage, O extends DescMessage> extends ButtonProps {
	method: DescMethodUnary<I, O>;
	request: MessageInitShape<I>;
	onDone?: (answer: MessageShape<O>) => void;
	children: ReactNode;
}

/** A button that makes one call. */
export function Act<I extends DescMessage, O extends DescMessage>({ method, request, onDone, children, ...look }: ActProps<I, O>) {
	const act = useMutation(method, { onSuccess: (answer) => onDone?.(answer as MessageShape<O>) });
	if (!useContext(Permit)(method)) return null;
	return (
		<Box>
			<Button variant="default" {...look} loading={act.isPending} aria-busy={act.isPending} onClick={() => act.mutate(request)}>
				{children}
			</Button>
			{act.error && (
				<Box mt="xs">
					<Failure error={act.error} />
				</Box>
			)}
		</Box>
	);
}

/** A form that sends by Enter or its button. */
export function Form({
	label,
	pending,
	error,
	onSend,
	children,
	other,
	disabled = false,
	color,
}: {
	label: string;
	pending: boolean;
	error: unknown;
	onSend: () => void;
	children: ReactNode;
	other?: ReactNode;
	disabled?: boolean;
	color?: ButtonProps["color"];
}) {
	return (
		<form
			onSubmit={(event) => {
				event.preventDefault();
				if (!pending) onSend();
			}}
		>
			<Stack gap="md">
				{children}
				<Failure error={error} />
				<Group gap="sm">
					<Button type="submit" loading={pending} disabled={disabled} {...(color && { color })}>
						{label}
					</Button>
					{other}
				</Group>
			</Stack>
		</form>
	);
}

/** The way back beside a form's own button. */
export function Cancel({ onClick }: { onClick: () => void }) {
	const { t } = useTranslation();
	return (
		<Button variant="default" onClick={onClick}>
			{t("cancel")}
		</Button>
	);
}

interface ConfirmedProps<I extends DescMessage, O extends DescMessage> extends ActProps<I, O> {
	title: string;
	/** What will happen. */
	explain: ReactNode;
	/** What to type first, for what is hard to take back. */
	typed?: string;
	confirm: string;
}

/** A button that says what will happen before it does. */
export function Confirmed<I extends DescMessage, O extends DescMessage>({
	method,
	request,
	onDone,
	title,
	explain,
	typed,
	confirm,
	children,
	...look
}: ConfirmedProps<I, O>) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	const [text, setText] = useState("");
	const act = useMutation(method, {
		onSuccess: (answer) => {
			close();
			onDone?.(answer as MessageShape<O>);
		},
	});
	if (!useContext(Permit)(method)) return null;
	return (
		<>
			<Button
				variant="default"
				{...look}
				onClick={() => {
					setText("");
					act.reset();
					open();
				}}
			>
				{children}
			</Button>
			<Dialog opened={opened} onClose={close} title={title}>
				<Form
					label={confirm}
					pending={act.isPending}
					error={act.error}
					disabled={typed !== undefined && text !== typed}
					color={look.color}
					onSend={() => act.mutate(request)}
					other={<Cancel onClick={close} />}
				>
					<Text component="div" size="sm">
						{explain}
					</Text>
					{typed !== undefined && (
						<TextInput
							label={t("confirm.type", { name: typed })}
							value={text}
							onChange={(event) => setText(event.currentTarget.value)}
							autoComplete="off"
							spellCheck={false}
							data-autofocus
						/>
					)}
				</Form>
			</Dialog>
		</>
	);
}
