// pm2 start deploy/pm2/ecosystem.config.js && pm2 save && pm2 startup
// One entry of `hotkeys` is one miner: name your wallet and hotkey. Everything not named here, the network first of all,
// comes from the .env in the checkout, see docs/configuration.md.
const path = require("node:path");

const hotkeys = [
  { wallet: "default", hotkey: "default", axonPort: 8091, healthPort: 9100 },
  // { wallet: "default", hotkey: "second", axonPort: 8092, healthPort: 9101 },
];

const root = path.resolve(__dirname, "..", "..");

module.exports = {
  apps: hotkeys.map(({ wallet, hotkey, axonPort, healthPort }) => ({
    name: `streetvision-${wallet}-${hotkey}`,
    cwd: root,
    script: "./run_miner.sh",
    args: "serve",
    interpreter: "bash",
    exec_mode: "fork",
    instances: 1,
    env: {
      WALLET_NAME: wallet,
      WALLET_HOTKEY: hotkey,
      MINER_AXON_PORT: String(axonPort),
      MINER_HEALTH_PORT: String(healthPort),
    },
    kill_timeout: 15000, // it stops within 13 seconds, whatever hangs
    treekill: false, // the signal is for the miner alone: it ends its workers itself, after the drain
    stop_exit_codes: [2], // a wrong setting does not mend itself
    exp_backoff_restart_delay: 500,
    max_restarts: 20,
    time: true,
  })),
};
