import { Hono } from "hono";

const app = new Hono();
app.get("/", (c) => c.text("Hello from Deno\n"));

const server = Deno.serve({ port: Number(Deno.env.get("PORT")) }, app.fetch);
Deno.addSignalListener("SIGTERM", () => server.shutdown());
