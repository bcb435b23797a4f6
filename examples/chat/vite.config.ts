import { defineConfig } from 'vite';

// Addresses are relative, so that the page works wherever the server mounts it.
// `npm run dev` serves the page itself and passes everything else on to a server started with `cargo run`.
const server = 'http://127.0.0.1:1337';

export default defineConfig({
  base: './',
  build: { chunkSizeWarningLimit: 1000 },
  server: {
    proxy: {
      '/config.json': { target: server, rewrite: path => `/chat${path}` },
      '/parse': { target: server, ws: true },
    },
  },
});
