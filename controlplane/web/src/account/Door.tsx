import { Anchor, Box, Center, Group, Paper, Text } from "@mantine/core";
import { Outlet } from "@tanstack/react-router";
import { StepUp } from "../frame/StepUp.js";
import { Logo } from "../ui/Logo.js";

/** What is around the pages for those who are not signed in. */
export function Door() {
	return (
		<Center mih="100vh" p="md">
			<Box w="100%" maw={420} py="xl">
				<Group justify="center" mb="lg" component="header">
					<Anchor href="/" underline="never" c="inherit">
						<Logo />
					</Anchor>
				</Group>
				<Paper component="main" withBorder radius="lg" p="xl">
					<Outlet />
				</Paper>
				<Text component="footer" size="xs" c="dimmed" ta="center" mt="md">
					CHOM
				</Text>
			</Box>
			<StepUp />
		</Center>
	);
}
